"""What is recorded of a run so that it can be repeated: code, seeds, job, versions, machine."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import run_script, wait_until

import fasttrack
from fasttrack import get_metadata, set_seeds
from fasttrack.context import metadata as metadata_module
from fasttrack.context import seeds
from fasttrack.context.config import to_plain
from fasttrack.context.git import describe_repository

SECRET = "s3cr3t-value-of-nobody"


def git(*arguments: str) -> str:
    """Run git in the working directory; return what it printed."""
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    result = subprocess.run(
        ["git", *identity, *arguments], check=True, capture_output=True, text=True
    )
    return result.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the working directory a git repository with one file and one commit."""
    directory = tmp_path / "repository"
    directory.mkdir()
    monkeypatch.chdir(directory)
    git("init", "-q", "-b", "main")
    Path("train.py").write_text("print('hello')\n")
    git("add", "train.py")
    git("commit", "-q", "-m", "first")
    return directory


@pytest.fixture
def _no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)


def fake_git(directory: Path, monkeypatch: pytest.MonkeyPatch, hangs_when: str) -> Path:
    """Put a git on PATH that hangs, with a child of its own, when `hangs_when` is an argument.

    Returns:
        The file that the child's pid is in once it hangs.
    """
    real, pid_file = shutil.which("git"), directory / "pid"
    script = directory / "bin" / "git"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\ncase " $* " in *" {hangs_when} "*)\n'
        f'  sleep 600 & echo $! > "{pid_file}"; wait;;\nesac\nexec {real} "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=":")
    return pid_file


# --- git ------------------------------------------------------------------------------------------


def test_commit_branch_state_and_remote_are_told(repository: Path) -> None:
    """A clean repository on a branch."""
    git("remote", "add", "origin", "https://host/x.git")

    assert get_metadata()["git"] == {
        "commit": git("rev-parse", "HEAD"),
        "branch": "main",
        "dirty": False,
        "remote": "https://host/x.git",
    }


@pytest.mark.parametrize(
    ("name", "file", "dirty"), [("changed", "train.py", True), ("unknown", "notes.txt", False)]
)
def test_changes_to_known_files_make_it_dirty(
    repository: Path, name: str, file: str, dirty: bool
) -> None:
    """What git does not know (logs, checkpoints) is no change to the code."""
    (repository / file).write_text(name)

    described = describe_repository()

    assert described is not None
    assert described["dirty"] is dirty


def test_detached_head_has_no_branch(repository: Path) -> None:
    """Clusters often run a checked-out commit."""
    git("checkout", "-q", "--detach")

    described = describe_repository()

    assert described is not None
    assert (described["commit"], described["branch"]) == (git("rev-parse", "HEAD"), None)


def test_repository_without_a_commit_has_a_branch_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`git init`, and nothing more."""
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")
    git("init", "-q", "-b", "main")

    assert describe_repository() == {
        "commit": None,
        "branch": "main",
        "dirty": False,
        "remote": None,
    }


@pytest.mark.parametrize(
    ("remotes", "told"),
    [
        ({"origin": f"https://user:{SECRET}@host/x.git"}, "https://host/x.git"),
        ({"origin": f"https://{SECRET}@host/x.git"}, "https://host/x.git"),
        ({"origin": f"https://{SECRET}:x-oauth-basic@host/x.git"}, "https://host/x.git"),
        ({"origin": "git@host:a/x.git"}, "git@host:a/x.git"),
        ({"lab": "/srv/x.git"}, "/srv/x.git"),
        ({"lab": "/srv/x.git", "origin": "https://host/x.git"}, "https://host/x.git"),
    ],
)
def test_remote_is_origin_or_else_the_first_without_credentials(
    repository: Path, remotes: dict[str, str], told: str
) -> None:
    """Whoever reads the run must not be able to push."""
    for name, url in remotes.items():
        git("remote", "add", name, url)

    described = describe_repository()

    assert described is not None
    assert described["remote"] == told


@pytest.mark.usefixtures("_no_repository")
def test_outside_a_repository_there_is_none(capfd: pytest.CaptureFixture[str]) -> None:
    """And git's complaint is not shown."""
    assert get_metadata()["git"] is None
    assert capfd.readouterr() == ("", "")


def test_without_git_there_is_no_repository(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container often has no git."""
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))

    assert describe_repository() is None


def test_repository_of_somebody_else_is_none(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git refuses to read it (`safe.directory`), as in a container that runs as root."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")

    assert describe_repository() is None


def test_deleted_working_directory_has_no_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody cleaned up beneath a running job."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert describe_repository() is None


def test_git_that_hangs_is_given_up_and_leaves_no_process(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead network file system; what git had started goes with it."""
    pid_file = fake_git(tmp_path, monkeypatch, "rev-parse")
    started_s = time.monotonic()

    assert describe_repository(timeout_s=0.5) is None

    assert time.monotonic() - started_s < 30  # not the 600 s that it hangs
    stat = Path(f"/proc/{pid_file.read_text().strip()}/stat")
    wait_until(lambda: not stat.exists() or stat.read_text().split()[2] == "Z")


def test_slow_status_costs_only_what_it_would_have_told(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a tree with a million files the commit is known at once, its state is not."""
    fake_git(tmp_path, monkeypatch, "status")

    described = describe_repository(timeout_s=1.0)

    assert described is not None
    assert described["commit"] == git("rev-parse", "HEAD")
    assert described["dirty"] is None


def test_git_is_asked_in_the_repository_of_the_running_program(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs are often started from a scratch directory; a program elsewhere leaves that one."""
    script = "import json\nfrom fasttrack import get_metadata\nprint(json.dumps(get_metadata()))\n"
    (repository / "train.py").write_text(script)
    (tmp_path / "loose.py").write_text(script)
    other = tmp_path / "other"
    other.mkdir()
    inside = git("rev-parse", "HEAD")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(other)
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "other")
    elsewhere = git("rev-parse", "HEAD")

    def commit_seen_by(program: Path) -> str:
        command = [sys.executable, str(program)]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        return str(json.loads(result.stdout)["git"]["commit"])

    assert commit_seen_by(repository / "train.py") == inside
    assert commit_seen_by(tmp_path / "loose.py") == elsewhere


# --- Slurm ----------------------------------------------------------------------------------------


def test_outside_a_job_there_is_no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login node has some SLURM_ variables, but no job."""
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")

    assert get_metadata()["slurm"] is None


def test_slurm_job_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """A requeued element of a job array, as a task of a job step on two nodes."""
    variables = {
        "SLURM_JOB_ID": "9",
        "SLURM_JOB_NAME": "train",
        "SLURM_ARRAY_JOB_ID": "8",
        "SLURM_ARRAY_TASK_ID": "0",
        "SLURM_STEP_ID": "0",
        "SLURM_RESTART_COUNT": "2",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_JOB_PARTITION": "2024",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_NTASKS": "4",
        "SLURM_TASKS_PER_NODE": "2(x2)",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_JOB_GPUS": "0,1",
        "SLURM_CLUSTER_NAME": "gilbreth",
        "SLURM_JOB_ACCOUNT": "lab",
        "SLURM_SUBMIT_HOST": "fe01",
        "SLURM_SUBMIT_DIR": "/home/u/run",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert get_metadata()["slurm"] == {
        "job_id": "9",
        "job_name": "train",
        "array_job_id": "8",
        "array_task_id": "0",
        "step_id": "0",
        "restart_count": 2,
        "node_list": "n[1-2]",
        "partition": "2024",
        "num_nodes": 2,
        "num_tasks": 4,
        "tasks_per_node": "2(x2)",
        "cpus_per_task": 8,
        "gpus_on_node": 2,
        "gpus": "0,1",
        "cluster": "gilbreth",
        "account": "lab",
        "submit_host": "fe01",
        "submit_dir": "/home/u/run",
    }


def test_first_start_of_a_job_by_older_names_has_no_restarts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Slurm leaves SLURM_RESTART_COUNT unset then, and what was not asked for too."""
    for name, value in (("JOBID", "7"), ("NNODES", "1"), ("NPROCS", "2"), ("NODELIST", "n1")):
        monkeypatch.setenv(f"SLURM_{name}", value)

    job = get_metadata()["slurm"]

    assert {key: value for key, value in job.items() if value is not None} == {
        "job_id": "7",
        "num_nodes": 1,
        "num_tasks": 2,
        "node_list": "n1",
        "restart_count": 0,
    }


# --- seeds, versions, machine ---------------------------------------------------------------------


def test_seeds_are_those_that_were_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """More in test_seeds."""
    monkeypatch.setattr(seeds, "_applied", None)
    kept = torch.get_rng_state()
    set_seeds(42)
    torch.set_rng_state(kept)

    assert get_metadata()["seeds"] == to_plain(seeds.describe_seeds())
    assert get_metadata()["seeds"]["python"] == 42


def test_versions_are_those_of_what_runs() -> None:
    """Of loaded modules their own word, of others what is installed, else None."""
    versions = get_metadata()["versions"]

    assert versions["python"] == sys.version.split()[0]
    assert versions["fasttrack"] == fasttrack.__version__
    assert versions["torch"] == torch.__version__
    assert versions["wandb"] == importlib.metadata.version("wandb")
    assert versions["cuda"] == torch.version.cuda
    assert versions["cudnn"] == torch.backends.cudnn.version()
    assert {"deepspeed", "numpy", "nccl", "hip"} <= set(versions)


@pytest.mark.parametrize("name", ["no_such_package", "sys"])
def test_package_that_is_not_there_has_no_version(name: str) -> None:
    """A directory `wandb/` in the working directory passes for a module without one."""
    assert metadata_module._version(name) is None


def test_host_is_described() -> None:
    """How many CPUs there are, and how many the scheduler lets us use."""
    host = get_metadata()["host"]

    assert host["hostname"]
    assert host["platform"].startswith(("Linux", "macOS"))
    assert 1 <= host["cpu_count_usable"] <= host["cpu_count"]
    assert isinstance(host["gpus"], list)


def test_world_size_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What samples per second are multiplied with."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "8")

    assert get_metadata()["world_size"] == 8


NVML_SCRIPT = """
import ctypes, json, sys, threading
ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)  # its SONAME answers every later dlopen
from fasttrack import get_metadata
seen = []
threads = [threading.Thread(target=lambda: seen.append(get_metadata())) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert len(seen) == 8 and all(one == seen[0] for one in seen), seen
import pynvml
assert pynvml._nvmlLib_refcount == 0, "NVML is left open"
assert not {"torch", "numpy", "wandb", "deepspeed"} & set(sys.modules)
print(json.dumps(seen[0]["host"]))
"""


@pytest.mark.parametrize("broken", ["", "fail.nvmlInitWithFlags 9", "fail.nvmlDeviceGetName 15"])
def test_gpus_and_driver_are_read_from_eight_threads_and_nvml_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Through NVML's real Python binding; a driver that is down or a lost GPU hurts nothing."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) here to build the fake NVML library with")
    library, source = tmp_path / "libnvidia-ml.so.1", tmp_path / "nvml.c"
    source.write_text(
        f'#include "{Path(__file__).parents[2] / "support" / "fake_nvml.c"}"\n'
        "int nvmlSystemGetDriverVersion(char *text, unsigned size) {\n"
        '    ENTER; snprintf(text, size, "580.65.06"); return OK; }\n'
        "int nvmlDeviceGetName(Gpu *gpu, char *text, unsigned size) {\n"
        '    ENTER; snprintf(text, size, "H%d", gpu->index); return OK; }\n'
    )
    flags = ["-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([compiler, *flags, "-o", str(library), str(source)], check=True)
    (tmp_path / "state").write_text(f"count 2\n{broken}\n")
    monkeypatch.setenv("FAKE_NVML_STATE", str(tmp_path / "state"))

    host = json.loads(run_script(NVML_SCRIPT, str(library), fresh=True).stdout)

    expected = ([], None) if broken else (["H0", "H1"], "580.65.06")
    assert (host["gpus"], host["driver"]) == expected


# --- the whole ------------------------------------------------------------------------------------


def test_cuda_is_never_initialised(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take device memory and break every later fork."""

    def trap() -> None:
        raise AssertionError("CUDA was touched")

    monkeypatch.setattr(torch.cuda, "_lazy_init", trap)
    monkeypatch.setattr(torch.cuda, "is_available", trap)

    assert get_metadata()["seeds"]["cuda"] is None


def test_metadata_is_plain_and_holds_the_configuration_if_given() -> None:
    """JSON takes it as it is; torch's own version class and large seeds included."""
    torch.manual_seed(2**64 - 1)
    config = {"out": Path("x"), "nested": [{"api_key": SECRET}]}

    metadata = get_metadata(config)

    assert json.loads(json.dumps(metadata)) == metadata
    assert metadata["config"] == {"out": "x", "nested": [{"api_key": "[redacted]"}]}
    assert "config" not in get_metadata()


def test_nothing_of_the_environment_but_the_list_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of names: not even other variables of the same families get in."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    for name in ("NCCL_PLUGIN_X", "TORCH_X", "CUDA_X", "SLURM_X", "HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, SECRET)

    metadata = get_metadata()

    assert metadata["environment"]["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert SECRET not in json.dumps(metadata)


def test_command_line_is_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    """How the run was started, without what must not be known."""
    monkeypatch.setattr(sys, "argv", ["train.py", "--api-key", SECRET, "--lr", "0.1"])

    assert get_metadata()["argv"] == ["train.py", "--api-key", "[redacted]", "--lr", "0.1"]


def test_threads_may_ask_at_once(repository: Path) -> None:
    """The tracker asks on a thread of its own, while the user may too."""
    seen: list[Any] = []
    threads = [threading.Thread(target=lambda: seen.append(get_metadata())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(seen) == 4
    assert all(one == seen[0] for one in seen)
