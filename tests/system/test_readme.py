"""Every snippet of the README runs as it stands there, taken out of the README itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import OFFLINE_LINE, TAGS, make_tracker, metrics, run_dir, run_script, wandb_rows
from support.wandb_server import WandbServer

from fasttrack import ExperimentTracker

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
Namespace = dict[str, Any]


def blocks(language: str) -> list[str]:
    """Return the README's snippets in a language, in order."""
    return [text for found, text in BLOCKS if found == language]


def snippet(language: str, containing: str) -> str:
    """Return the one snippet that holds a text."""
    (found,) = [text for text in blocks(language) if containing in text]
    return found


def training() -> Namespace:
    """Return the names that the snippets expect of a training script."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train_step() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = model(torch.ones(2, 4)).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return {
        "torch": torch,
        "model": model,
        "optimizer": optimizer,
        "train_step": train_step,
        "config": {"lr": 0.1},
        "tags": TAGS,
        "num_steps": 25,
        "batch_size": 2,
        "ExperimentTracker": ExperimentTracker,
    }


def run(text: str, names: Namespace) -> Namespace:
    """Execute a snippet with `names`, and return them as it left them."""
    exec(compile(text, "README.md", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
def test_the_quick_start_tracks_in_every_mode(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """As written; every tenth step is a row."""
    monkeypatch.setenv("WANDB_MODE", mode)
    names = run(snippet("python", "num_steps"), training())

    if mode == "online":
        rows = server.runs[names["tracker"].get_run_id()].history
    elif mode == "offline":
        (directory,) = (tmp_path / "wandb").glob("offline-run-*")
        rows = wandb_rows(directory)
    else:
        assert not (tmp_path / "wandb").exists()
        return
    assert [row["step"] for row in rows] == [0, 10, 20]
    assert {"loss/total", "train/lr", "train/grad_norm", "perf/samples_per_sec"} <= set(rows[-1])


def test_the_calls_of_a_training_script_log_what_the_table_says(server: WandbServer) -> None:
    """Every key of the table that a CPU has, and the artifacts."""
    names = training()
    names |= {
        "tracker": make_tracker(mode="online"),
        "loss": names["train_step"](),
        "step": 0,
        "scaler": torch.amp.GradScaler("cpu", init_scale=8.0),
        "ar": 0.25,
        "fm": 0.5,
        "norm": 2.0,
        "accuracy": 0.9,
    }
    torch.save({}, "checkpoint.pt")
    text = snippet("python", "scaler=scaler")
    tracker = names["tracker"]
    run(text, names)
    run(text, {**names, "step": 10})
    tracker.finish()

    table = set(re.findall(r"`((?:loss|train|perf)/[\w/]+)`", README.split("| argument |")[0]))
    table |= {"perf/step_time_ms/p99", "perf/step_time_ms/max"}
    rows = [metrics(row) for row in server.runs[tracker.get_run_id()].history]
    assert table <= set(rows[-1])
    assert (rows[-1]["train/amp_scale"], rows[-1]["train/grad_norm"]) == (8.0, 2.0)
    assert rows[-1]["eval/accuracy"] == 0.97
    assert {artifact.type for artifact in server.artifacts} == {"config"}


def test_the_utilities_work_without_a_tracker() -> None:
    """All names of the snippet, called."""
    names = training()
    names["train_step"]()
    names |= {"scaler": torch.amp.GradScaler("cpu", init_scale=8.0)}
    run(snippet("python", "set_seeds"), names)

    assert names["get_metadata"]()["seeds"]["set_seeds"]["seed"] == 0


def test_force_uploads_one_checkpoint(server: WandbServer) -> None:
    """Whatever WANDB_LOG_MODEL says."""
    torch.save({"weights": torch.zeros(100)}, "model_final.pt")
    with make_tracker(mode="online") as tracker:
        run(snippet("python", "force=True"), {"tracker": tracker})

    (artifact,) = server.artifacts
    assert (artifact.type, artifact.state) == ("model", "COMMITTED")
    assert "final" in artifact.aliases


def test_resume_goes_on_in_the_same_run(server: WandbServer) -> None:
    """One run, both attempts' rows."""
    names = training()
    with make_tracker(mode="online") as first:
        first.log_metrics({"a": 1}, step=0)
        names = run(snippet("python", "torch.save("), {**names, "tracker": first})
    names["tracker"].log_metrics({"a": 2}, step=1)
    names["tracker"].finish()

    (only,) = server.runs.values()
    assert [row["a"] for row in only.history] == [1, 2]


@pytest.mark.deepspeed
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_resume_with_deepspeed_goes_on_in_the_same_run(server: WandbServer) -> None:
    """The snippet twice, on a real engine: without a checkpoint, then with its own."""
    setup = """\
    import os
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
    import deepspeed, deepspeed.ops, socket, torch
    from fasttrack import ExperimentTracker
    from support.runs import TAGS as tags
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.environ["MASTER_PORT"] = str(listener.getsockname()[1])
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo")
    config, ckpt_dir = {"lr": 0.1}, "checkpoints"
    optimizer = {"type": "AdamW", "params": {"lr": 0.01, "torch_adam": True}}
    settings = {"train_batch_size": 1, "optimizer": optimizer, "zero_optimization": {"stage": 1}}
    def attempt():
        model = torch.nn.Linear(4, 1)
        engine, *_ = deepspeed.initialize(
            model=model, model_parameters=model.parameters(), config=settings
        )
    """
    ending = """\
        tracker.log_metrics({"a": 1}, step=0)
        tracker.finish()
        return resume_id, ids[0]
    print(attempt(), attempt())
    torch.distributed.destroy_process_group()
    """
    body = textwrap.indent(snippet("python", "load_checkpoint"), " " * 8)
    result = run_script(setup.rstrip(" ") + body + ending, warnings="default")

    (run_id,) = server.runs
    assert f"(None, '{run_id}') ('{run_id}', '{run_id}')" in result.stdout
    assert [row["a"] for row in server.runs[run_id].history] == [1, 1]


def in_shell(text: str, **environment: str) -> str:
    """Run a snippet in bash, as a user with an activated environment does; return its output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PATH": path, **environment},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_commands_look_at_the_newest_run(tmp_path: Path) -> None:
    """All of the block, one after another."""
    with make_tracker() as tracker:
        for step in range(20):
            tracker.log_training_step(step / 4, step)
    output = in_shell(snippet("bash", "fasttrack runs"))

    assert str(tracker.get_run_id()) in output
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "rows.csv").read_text().count("\n") == 21


def test_sync_delivers_what_was_kept_offline(server: WandbServer, tmp_path: Path) -> None:
    """And does nothing when called again."""
    with make_tracker() as tracker:
        tracker.log_metrics({"a": 1}, step=0)
    command = snippet("bash", "fasttrack sync")
    first, second = in_shell(command), in_shell(command)

    assert len(server.runs[str(tracker.get_run_id())].history) == 1
    assert "already delivered" not in first
    assert "already delivered" in second


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("WANDB_LOG_MODEL=1", lambda tracker: True),
        ("WANDB_MODE=offline", lambda tracker: tracker.is_offline()),
        ("WANDB_MODE=disabled", lambda tracker: not tracker.is_active()),
    ],
)
def test_an_exported_variable_does_what_is_said(
    name: str, check: Callable[[ExperimentTracker], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines that the README tells to export, as the shell understands them."""
    lines = [line for text in blocks("bash") for line in text.splitlines() if name in line]
    (line,) = [line for line in lines if line.startswith("export")]
    variable, value = in_shell(f"{line}\nenv | grep ^WANDB_ | grep {name}").strip().split("=")
    monkeypatch.setenv(variable, value)
    Path("model.pt").write_bytes(b"weights")
    with ExperimentTracker(tags=TAGS, mode=None if "MODE=" in name else "offline") as tracker:
        tracker.log_checkpoint("model.pt")
        assert check(tracker)

    if name == "WANDB_LOG_MODEL=1":
        assert (run_dir(Path(), tracker.get_run_id()) / "artifacts").is_dir()


def test_the_two_commands_are_those_that_ci_runs() -> None:
    """They install into a fresh environment, which is more than a test should do."""
    commands = [text.strip() for text in blocks("bash") if "-m venv" in text]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")

    assert len(commands) == 2
    assert all(command in script for command in commands)


def test_the_audit_watches_some_steps(capsys: pytest.CaptureFixture[str]) -> None:
    """A loop on the CPU waits for no device."""
    with make_tracker() as tracker:
        run(snippet("python", "tracker.audit()"), {**training(), "tracker": tracker})

    assert "[ExperimentTracker] audit: " in capsys.readouterr().err


def test_the_audit_runs_a_script_with_its_arguments() -> None:
    """As python would."""
    Path("train.py").write_text("import sys; print(sys.argv)", encoding="utf-8")

    assert in_shell(snippet("bash", "fasttrack audit")) == "['train.py', '--epochs', '1']\n"


def test_every_snippet_is_run_by_a_test() -> None:
    """A new one must be added above; what the flow and the messages show is no snippet."""
    source = Path(__file__).read_text(encoding="utf-8")
    wanted = re.findall(r'snippet\(\s*"(\w+)", "([^"]+)"', source)
    known = {snippet(language, text) for language, text in wanted}
    known |= {text for text in blocks("bash") if "-m venv" in text or text.startswith("export")}

    assert set(blocks("python") + blocks("bash")) == known
    assert {language for language, _ in BLOCKS} == {"python", "bash", ""}
    assert any(OFFLINE_LINE in text for text in blocks(""))


def test_everything_that_the_readme_names_is_there() -> None:
    """Files and links within the repository."""
    named = re.findall(r"\]\((?!http)([^)#]+)", README)
    named += re.findall(r"`((?:examples|fasttrack|bench|slurm|\.github)/[\w./]+\.\w+)`", README)
    named += re.findall(r'<img src="([^"]+)"', README)

    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []
