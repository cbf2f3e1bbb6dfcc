"""Isolation for every test: no account, no rank, no directory but its own."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from support.runs import QUICK_END
from support.wandb_server import WandbServer

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from support.snippets import Snippet

# Images of Docker often forbid to write bytecode. Then each worker would rewrite the asserts of all
# tests anew (8 s of CPU), and each of some hundred processes compile what it imports of fasttrack.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# With `-n`, a file is one worker's; those that take longest begin first, or the others would wait.
# Those that wait more than they compute stand between the others: some of each run side by side.
_LONGEST = (
    "test_slurm",
    "test_examples",
    "test_slurm_sharded",
    "test_online",
    "test_deepspeed",
    "test_interruptions",
    "test_hangs",
    "test_process",
    "test_artifacts",
    "test_resume",
    "test_huggingface",
    "test_bench_targets",
    "test_media",
    "test_lightning",
    "test_cli_verify",
    "test_format_v1",
    "test_offline",
    "test_proof",
    "test_docs",
    "test_cli_sync",
    "test_demo",
    "test_stop_button",
    "test_cli_audit",
    "test_mlflow_and_trackio",
    "test_wandb_standin",
    "test_cli_sync_watch",
    "test_keras",
    "test_deepspeed_monitor",
    "test_bench_adapters",
    "test_checkpoints",
    "test_report_page",
    "test_bench",
    "test_readme",
    "test_cli_doctor",
    "test_misuse",
    "test_accelerate",
)
# `pytest tests/property --hypothesis-profile long`: forty times as many examples, others each time.
settings.register_profile("long", settings.get_profile("default"))
# A busy machine is no fault of a test. All else stays as it is where the tests run.
settings.register_profile(
    "any-speed", settings(), suppress_health_check=[HealthCheck.too_slow], deadline=None
)
settings.load_profile("any-speed")
_RANK_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_PREFIXES = ("WANDB_", "MLFLOW_", "TRACKIO_", "SLURM_", "OMPI_", "PMI_", "TORCHELASTIC_")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first."""
    place = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Do not look for garbage while modules are imported, nor later in what was: it stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(_PREFIXES) or name in _RANK_NAMES:
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))  # no netrc, no settings file
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A W&B server on loopback that this process and its children are logged in to."""
    with WandbServer() as running:
        for name, value in running.env().items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def quick_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have programs look for garbage seldom, and not at their end, which is not the matter."""
    monkeypatch.setenv("PYTHONPATH", QUICK_END)


@pytest.fixture
def snippet(request: pytest.FixtureRequest) -> Iterator[Snippet]:
    """The snippet that `Pages.runs` names; the test must run it."""
    found: Snippet = request.param
    found.was_run = False
    yield found
    assert found.was_run, f"the test of {found} did not run it"


@pytest.fixture
def snippets(request: pytest.FixtureRequest) -> Iterator[tuple[Snippet, ...]]:
    """The snippets that `Pages.runs` names; the test must run them all."""
    found: tuple[Snippet, ...] = request.param
    for each in found:
        each.was_run = False
    yield found
    for each in found:
        assert each.was_run, f"the test of {each} did not run it"
