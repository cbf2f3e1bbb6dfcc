"""`fasttrack doctor`: real servers, repositories, directories and drivers, well and unwell."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.runs import make_tracker, run_dir, run_script
from support.wandb_server import Fault, WandbServer
from test_gpu import GPUS, build, library  # noqa: F401  (fixtures)

from fasttrack.cli import checks, doctor, machine_checks
from fasttrack.doctor.checks import Check
from fasttrack.journal.cursor import load_cursor

KEY = "planted" + "0" * 40


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let slow machines be slow: what a time limit does has tests of its own."""
    monkeypatch.setattr(checks, "_CLIENT_TIMEOUT_S", 100.0)
    monkeypatch.setattr(machine_checks, "_TORCH_TIMEOUT_S", 100.0)
    monkeypatch.setattr(machine_checks, "_TOOL_TIMEOUT_S", 100.0)
    monkeypatch.setattr(doctor, "_DEADLINE_S", 110.0)


def by_name(found: list[Check]) -> dict[str, Check]:
    """Return the checks by their names."""
    assert len({check.check for check in found}) == len(found)
    return {check.check: check for check in found}


def only(found: list[Check]) -> Check:
    """Return the one check."""
    (check,) = found
    return check


def states(found: dict[str, Check]) -> dict[str, str]:
    """Return the states by the names."""
    return {name: check.state for name, check in found.items()}


def run_doctor(*arguments: str) -> tuple[int, str]:
    """Run the command in this process; return its exit code and all that it printed."""
    result = CliRunner().invoke(doctor.doctor, arguments)
    return result.exit_code, result.output


def hide_module(name: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a module impossible to import in processes that are started from now on."""
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(f"import sys\nsys.modules[{name!r}] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(directory))


def verdict(**problems: str) -> Check:
    """Return the verdict on a machine where some checks ended in other states than "ok"."""
    names = ("rank", "mode", "wandb", "account", "server", "torch", "directory")
    return doctor.judge([Check(n, problems.get(n, "ok"), "") for n in names])  # type: ignore[arg-type]


# --- W&B -----------------------------------------------------------------------------------------


def test_reachable_server_that_accepts_the_key_is_well(server: WandbServer) -> None:
    """The client, the account and the server, each with what was found."""
    found = by_name(checks.check_client())

    assert states(found) == {"wandb": "ok", "account": "ok", "server": "ok"}
    assert "wandb-core 0." in found["wandb"].text
    assert found["account"].text == "credentials from WANDB_API_KEY are accepted: tester"
    assert found["server"].text.startswith(f"{server.url} answers within ")


def test_key_that_the_server_refuses_is_a_problem_of_the_account(server: WandbServer) -> None:
    """The server is fine; the mend takes the bad key out of the environment first."""
    server.fault = Fault("status", target="graphql", status=401)

    found = by_name(checks.check_client())

    assert states(found) == {"wandb": "ok", "account": "problem", "server": "ok"}
    assert found["account"].mend == "unset WANDB_API_KEY && wandb login --relogin"


def test_key_in_the_netrc_file_is_found(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where `wandb login` writes it."""
    monkeypatch.delenv("WANDB_API_KEY")
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text(f"machine 127.0.0.1:{server.port}\n  login user\n  password {KEY}\n")
    netrc.chmod(0o600)

    found = by_name(checks.check_client())

    assert found["account"].text == "credentials from the netrc file are accepted: tester"


def test_no_key_is_a_problem_that_logging_in_mends(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the run would fall back to offline."""
    monkeypatch.delenv("WANDB_API_KEY")

    found = by_name(checks.check_client())

    assert states(found) == {"wandb": "ok", "account": "problem", "server": "ok"}
    assert found["account"].mend == "wandb login"


def test_closed_port_is_named_and_the_account_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens on the discard port; whether the key is good cannot be known."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)

    found = by_name(checks.check_client())

    assert states(found) == {"wandb": "ok", "account": "note", "server": "problem"}
    assert found["server"].text == "http://127.0.0.1:9: the connection is refused"
    assert "WANDB_MODE=offline" in str(found["server"].mend)


def test_unknown_host_name_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """`.invalid` is reserved: no resolver knows it."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.invalid")

    found = by_name(checks.check_client())

    assert found["server"].text == "http://wandb.invalid: its name is not known here (DNS)"


def test_tls_trouble_is_named(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here: https asked of a server that speaks http."""
    monkeypatch.setenv("WANDB_BASE_URL", server.url.replace("http:", "https:"))

    found = by_name(checks.check_client())

    assert found["server"].text.endswith(": TLS fails")


def test_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection, and then nothing comes."""
    monkeypatch.setattr(checks, "_NETWORK_TIMEOUT_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")

        found = by_name(checks.check_client())

    assert found["server"].state == "problem"
    assert "no answer within" in found["server"].text


def test_account_that_never_answers_is_given_up(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key is not to blame for a server that hangs; a tracker would fall back all the same."""
    monkeypatch.setattr(checks, "_NETWORK_TIMEOUT_S", 1)
    server.fault = Fault("hang", target="graphql")

    found = by_name(checks.check_client())

    assert states(found) == {"wandb": "ok", "account": "problem", "server": "ok"}
    assert "login" not in str(found["account"].mend)


def test_proxy_is_used_and_named_without_its_password(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test server takes a proxy's requests too; the name is known to nobody else."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.invalid")
    monkeypatch.setenv("HTTP_PROXY", server.url.replace("://", f"://me:{KEY}@"))
    for name in ("http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    found = by_name(checks.check_client())

    expected = f"http://wandb.invalid through the proxy {server.url} answers within "
    assert found["server"].text.startswith(expected)
    assert f"HTTP_PROXY={server.url}" in only(checks.check_environment()).text


def test_offline_asks_no_server(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence was asked for; only the client itself is looked at."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    server.fault = Fault("close")

    found = by_name(checks.check_client())

    assert states(found) == {"wandb": "ok"}
    assert server.faults_struck == 0


def test_missing_wandb_is_a_problem_that_pip_mends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a folder `wandb` lies around, as it does wherever runs were recorded."""
    hide_module("wandb", tmp_path / "hidden", monkeypatch)
    (tmp_path / "wandb").mkdir()

    found = only(checks.check_client())

    assert (found.check, found.state, found.mend) == ("wandb", "problem", "pip install wandb")


def test_url_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """wandb's own words, in one line, and the variable to mend."""
    monkeypatch.setenv("WANDB_BASE_URL", "wandb.example")

    found = only(checks.check_client())

    assert (found.state, found.mend) == ("problem", "unset WANDB_BASE_URL")
    assert "valid URL" in found.text


def test_what_the_client_found_before_it_hung_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking up a name knows no time limit, so the whole client has one."""
    facts = {"version": "1.2", "core": "/bin/true", "base_url": "http://x", "key_source": "y"}
    hang = f"print({json.dumps(json.dumps(facts))}, flush=True); import time; time.sleep(600)"
    monkeypatch.setattr(checks, "_DESCRIBE_CLIENT", hang)
    monkeypatch.setattr(checks, "_CLIENT_TIMEOUT_S", 2.0)

    found = by_name(checks.check_client())

    assert states(found) == {"wandb": "ok", "account": "note", "server": "problem"}
    assert found["server"].text == "http://x: wandb's client took longer than 2 s"


def test_client_that_starts_too_slowly_is_not_said_to_be_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a slow disk the second start is faster; nothing needs installing."""
    monkeypatch.setattr(checks, "_CLIENT_TIMEOUT_S", 0.01)

    found = only(checks.check_client())

    assert found.text == "wandb's client took longer than 0.01 s"
    assert str(found.mend).startswith("fasttrack doctor ")


# --- settings ------------------------------------------------------------------------------------


def test_other_ranks_would_stay_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the variable that says so is named."""
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("SLURM_PROCID", "3")

    found = only(checks.check_rank())

    assert found.state == "note"
    assert found.text == ("rank 3 of 8 (from RANK): this process would stay silent, rank 0 records")


def test_batch_script_is_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm numbers it 0 although it is one process by itself."""
    monkeypatch.setenv("SLURM_PROCID", "0")

    assert only(checks.check_rank()).text == (
        "rank 0 of 1 (no launcher): this process would record"
    )


@pytest.mark.parametrize(("name", "value"), [("WANDB_MODE", "fast"), ("WANDB_PROJECT", "a/b")])
def test_setting_that_a_tracker_refuses_is_a_problem(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the words of its error, and the variable to mend."""
    monkeypatch.setenv(name, value)

    found = only(checks.check_mode())

    assert (found.state, found.mend) == ("problem", f"unset {name}")
    assert repr(value) in found.text


def test_mode_says_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment or nowhere."""
    default = only(checks.check_mode())
    monkeypatch.setenv("WANDB_MODE", "offline")

    assert default.text.startswith("online (the default); project vla-lego,")
    assert only(checks.check_mode()).text.startswith("offline (WANDB_MODE);")


def test_environment_shows_no_value_that_may_be_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only values of variables that are known to be harmless."""
    monkeypatch.setenv("WANDB_LOG_MODEL", "1")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_X_EXTRA_HTTP_HEADERS", f'{{"X-Own": "{KEY}"}}')

    text = only(checks.check_environment()).text

    assert "WANDB_LOG_MODEL=1" in text
    assert "WANDB_API_KEY (secret)" in text
    assert "WANDB_X_EXTRA_HTTP_HEADERS (set)" in text
    assert KEY not in text


def test_runs_that_are_not_on_the_server_are_counted(tmp_path: Path) -> None:
    """Not while they are written, nor once the server has them."""
    before = only(checks.check_runs())
    with make_tracker() as tracker:
        tracker.log_metrics({"loss": 0.5}, 0)
        during = only(checks.check_runs())
    after = only(checks.check_runs())
    cursor_path = run_dir(tmp_path, tracker.get_run_id()) / "cursor.json"
    cursor = load_cursor(cursor_path)
    cursor.segment("segment-0001.jsonl").online_proof = "seen"
    cursor.save(cursor_path)

    assert before.text == "0 here; none waits to be delivered"
    assert during.text == "1 here; none waits to be delivered"
    assert (after.state, after.mend) == ("note", "fasttrack sync --all")
    assert after.text == "1 of 1 is not delivered to the server"
    assert only(checks.check_runs()).state == "ok"


# --- the machine ---------------------------------------------------------------------------------


def test_versions_are_those_that_run() -> None:
    """Python's and ours."""
    assert f"Python {sys.version.split()[0]}, fasttrack " in only(checks.check_python()).text


def test_missing_torch_is_a_problem_that_pip_mends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracker could not even be imported."""
    hide_module("torch", tmp_path / "hidden", monkeypatch)

    found = only(machine_checks.check_torch())

    assert (found.state, found.mend) == ("problem", "pip install torch")


def test_torch_that_takes_too_long_is_only_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow file system is no fault of a tracker's."""
    monkeypatch.setattr(machine_checks, "_TORCH_TIMEOUT_S", 0.01)

    found = only(machine_checks.check_torch())

    assert found.state == "note"
    assert "longer than 0.01 s" in found.text


def look_for_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **state: Any) -> Check:
    """Return what is found in a process where the fake driver has this state."""
    path = tmp_path / "state"
    path.write_text("".join(f"{key} {value}\n" for key, value in {**GPUS, **state}.items()))
    monkeypatch.setenv("FAKE_NVML_STATE", str(path))
    result = run_script(
        """
        import dataclasses, json
        from fasttrack.doctor.machine import check_gpu
        print(json.dumps(dataclasses.asdict(*check_gpu())))
        """
    )
    return Check(**json.loads(result.stdout))


def test_gpus_that_nvml_knows_are_counted(
    library: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """What cannot be asked of an old driver is unknown; what hides GPUs is named."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library.parent))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")

    found = look_for_gpus(monkeypatch, tmp_path)

    assert found.state == "ok"
    assert found.text == "2 GPUs (unknown), driver unknown; CUDA_VISIBLE_DEVICES='1'"


def test_driver_that_refuses_is_a_note_with_its_reason(
    library: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A run goes on without `gpu/` metrics. 9: the driver is not loaded."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library.parent))

    found = look_for_gpus(monkeypatch, tmp_path, **{"fail.nvmlInitWithFlags": 9})

    assert found.state == "note"
    assert found.text == "no gpu/ metrics: NVML does not start (Driver Not Loaded)"


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that runs git in a new repository, which is the working directory."""
    repository = tmp_path / "repository"
    repository.mkdir()
    monkeypatch.chdir(repository)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "me")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "me@example.org")

    def run(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    run("init", "-q", "-b", "main")
    return run


def test_commit_and_changes_are_named(git: Callable[..., str]) -> None:
    """Of tracked files; others lie around in every repository."""
    empty = only(machine_checks.check_git())
    Path("train.py").write_text("a = 1\n")
    git("add", "train.py")
    git("commit", "-q", "-m", "first")
    Path("untracked.txt").touch()
    clean = only(machine_checks.check_git())
    Path("train.py").write_text("a = 2\n")
    dirty = only(machine_checks.check_git())

    assert "a repository without a commit" in empty.text
    where = f"commit {git('rev-parse', 'HEAD')[:12]} on main"
    assert (clean.state, dirty.state) == ("ok", "ok")
    assert clean.text.endswith(f"{where}, clean")
    assert dirty.text.endswith(f"{where}, 1 changed file, not committed")


def test_no_repository_is_a_note() -> None:
    """Many train without one."""
    found = only(machine_checks.check_git())

    assert found.state == "note"
    assert "no repository here" in found.text


def test_repository_of_someone_else_comes_with_git_s_own_mend(
    git: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on shared disks and in containers. The variable is one of git's own tests."""
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")

    found = only(machine_checks.check_git())

    assert found.state == "note"
    assert found.mend == f"git config --global --add safe.directory {Path.cwd()}"


def test_missing_git_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit is what will miss."""
    monkeypatch.setenv("PATH", str(tmp_path))

    found = only(machine_checks.check_git())

    assert (found.state, found.text[:22]) == ("note", "git is not on PATH: ru")


def test_writable_directory_is_left_as_it_was(tmp_path: Path) -> None:
    """Even `wandb/` is not made; what the disk can do was tried beside it."""
    before = set(tmp_path.rglob("*"))

    found = only(machine_checks.check_directory())

    assert found.state == "ok"
    assert found.text.startswith(f"{tmp_path}/wandb can be written: ")
    assert found.text.endswith(" GiB free; hard links and file locks work")
    assert set(tmp_path.rglob("*")) == before


def test_directory_that_cannot_be_written_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below a file there is no directory, not even for root."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "file"))

    found = only(machine_checks.check_directory())

    assert found.state == "problem"
    assert found.text.startswith(f"{tmp_path}/file/wandb cannot be written: ")
    assert str(found.mend).startswith("export WANDB_DIR=")


def test_slurm_job_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where `scontrol` is not there to be asked for more."""
    outside = only(machine_checks.check_slurm())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_JOB_PARTITION", "a100")

    assert outside.text == "not in a Slurm job"
    assert only(machine_checks.check_slurm()).text == "job 12, step 0, partition a100"


# --- the verdict ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problems", "state", "text"),
    [
        ({}, "ok", "would record online"),
        ({"account": "problem"}, "problem", "would fall back to offline: see account"),
        ({"rank": "note"}, "note", "would stay silent here; rank 0 records"),
        ({"directory": "problem"}, "problem", "would not start: see directory"),
        ({"mode": "problem"}, "problem", "would not start: see mode"),
        (
            {"wandb": "problem"},
            "problem",
            "would record on disk; whether W&B gets it is in doubt: see wandb",
        ),
    ],
)
def test_verdict_says_what_a_tracker_would_do(
    problems: dict[str, str], state: str, text: str
) -> None:
    """The worst finding decides."""
    assert verdict(**problems) == Check("tracker", state, text)  # type: ignore[arg-type]


def test_verdict_on_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline and disabled are no problems where they were asked for."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    offline = verdict()
    monkeypatch.setenv("WANDB_MODE", "disabled")

    assert offline == Check("tracker", "ok", "would record offline, as asked")
    assert verdict() == Check("tracker", "ok", "would record nothing, as asked")


def test_check_that_hangs_or_fails_spoils_nothing() -> None:
    """What a tracker cannot do without is a problem when it is not known, the rest a note."""
    gate = threading.Event()

    def hang() -> list[Check]:
        gate.wait()
        return []

    def fail() -> list[Check]:
        raise RuntimeError("oh")

    found = by_name(
        doctor.examine({"directory": hang, "gpu": fail, "python": checks.check_python}, 0.2)
    )
    gate.set()

    assert states(found) == {
        "directory": "problem",
        "gpu": "note",
        "python": "ok",
        "tracker": "problem",
    }
    assert found["directory"].text == "no answer within 0.2 s"
    assert found["gpu"].text == "this check itself failed: RuntimeError('oh')"


# --- the command ---------------------------------------------------------------------------------


def test_healthy_machine_is_printed_in_80_columns_without_secrets(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line each and more where it is long; no colour codes; exit code 0."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_PROJECT", KEY)  # a slip of the clipboard
    monkeypatch.setenv("COLUMNS", "200")

    code, output = run_doctor()

    lines = output.splitlines()
    assert code == 0, output
    assert lines[-1].split() == ["ok", "tracker", "would", "record", "online"]
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in output
    assert f"torch {importlib.metadata.version('torch').split('+')[0]}" in output
    assert "project [redacted]" in output
    assert "planted" not in output


def test_json_has_every_check_and_disabled_needs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that cannot be written does not matter to a tracker that writes nothing."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "file"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    hide_module("torch", tmp_path / "hidden", monkeypatch)

    code, output = run_doctor("--json")

    found = {entry["check"]: entry for entry in json.loads(output)}
    assert code == 0
    assert list(found) == [*doctor.PROBES, "tracker"]
    assert {"check", "state", "text", "mend"} == set(found["tracker"])
    unwell = {name: found[name]["state"] for name in ("directory", "torch", "tracker")}
    assert unwell == {"directory": "note", "torch": "note", "tracker": "ok"}


def test_problem_makes_the_program_exit_with_1_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole program, as a user starts it."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "file"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    hide_module("torch", tmp_path / "hidden", monkeypatch)

    command = [sys.executable, "-W", "error", "-m", "fasttrack", "doctor"]
    result = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))

    assert result.returncode == 1, result.stderr
    assert result.stderr == ""
    assert "would not start: see directory and torch" in result.stdout
    assert "mend: export WANDB_DIR=" in result.stdout
