"""Runs written by the version before the redesign are read, delivered and resumed by this one.

The files are in `tests/data/v1`, and `make.py` there says how they were made.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from support.runs import deliver, make_tracker, offline_dirs, wandb_rows
from support.version_1 import SCENARIOS, OldRun, copy_run, preload

from fasttrack.cli.app import cli
from fasttrack.journal.entries import FORMAT_VERSION
from fasttrack.runs.local import LocalRun, find_run

if TYPE_CHECKING:
    from pathlib import Path

    from support.wandb_server import WandbServer
    from support.wandb_server_runs import ServerRun

pytestmark = pytest.mark.server

ADDED_BY_DELIVERY = {"step", "time/logged_at"}
NEW_STEPS = range(100, 105)
RUNS_KEYS = (
    *("run_id", "name", "project", "entity", "state", "exit_code", "rows", "attempts"),
    *("started", "delivered", "proofs", "url"),
)

Value = tuple[int, str, str]
"""User's step, metric, and the number in JSON: what of a row may come once only."""


def _values(rows: list[dict[str, Any]]) -> Counter[Value]:
    """Return what rows of the server, or of a `.wandb` file, hold."""
    return Counter(
        (row["step"], name, _spell(value))
        for row in rows
        for name, value in row.items()
        if not name.startswith("_") and name not in ADDED_BY_DELIVERY
    )


def _old_values(lines: list[dict[str, Any]]) -> Counter[Value]:
    """Return what journal lines of rows hold; their non-finite numbers are spelled out."""
    numbers = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    return Counter(
        (line["step"], name, _spell(numbers[value] if isinstance(value, str) else value))
        for line in lines
        for name, value in line["values"].items()
    )


def _spell(value: Any) -> str:
    number = float(value) + 0.0  # -0.0 goes through wandb-core as 0
    return json.dumps(number)


def _new_values() -> Counter[Value]:
    return Counter((step, "added", _spell(step / 4)) for step in NEW_STEPS)


def _resume(run_id: str, mode: str) -> None:
    with make_tracker(mode=mode, resume_id=run_id, tags=None) as tracker:
        for step in NEW_STEPS:
            tracker.log_metrics({"added": step / 4}, step)


def _history(run: ServerRun) -> list[str]:
    """Return a run's rows without what the client's clock says, comparable even with a NaN."""
    clocks = ("_runtime", "_timestamp")
    rows = [{k: v for k, v in row.items() if k not in clocks} for row in run.history]
    return [json.dumps(row, sort_keys=True) for row in rows]


def _assert_steps_rise(run: ServerRun) -> None:
    steps = [row["_step"] for row in run.history]
    assert steps == sorted(set(steps))


def _bytes(old: OldRun) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in old.segments}


# --- reading --------------------------------------------------------------------------------------


def _ask(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("name", SCENARIOS)
def test_runs_says_of_an_old_run_what_the_old_version_said(name: str, tmp_path: Path) -> None:
    """State, rows, attempts, where it is delivered and what proves it."""
    old = copy_run(name, tmp_path)

    (told,) = json.loads(_ask("runs", "--json", "--dir", tmp_path))

    assert {key: told[key] for key in RUNS_KEYS} == old.expected["runs"][0]
    assert told["directory"] == str(old.directory)


@pytest.mark.parametrize("name", SCENARIOS)
def test_show_says_of_an_old_run_what_the_old_version_said(name: str, tmp_path: Path) -> None:
    """Header, metadata, configuration, artifacts, proofs and every metric's summary."""
    old = copy_run(name, tmp_path)
    expected = old.expected["show"]

    told = json.loads(_ask("show", old.run_id, "--json", "--dir", tmp_path))

    for key in (*RUNS_KEYS, "metadata", "config", "artifacts", "offline_directories", "bad_lines"):
        assert told[key] == expected[key], key
    header = {key: value for key, value in expected["header"].items() if key != "kind"}
    assert {key: told["header"].get(key) for key in header} == header
    assert json.dumps(told["metrics"]) == json.dumps(expected["metrics"])  # their order, too
    renamed = [(s["attempt"], s["rows"], s["server"], s["offline"]) for s in expected["segments"]]
    assert [tuple(segment.values())[:4] for segment in told["segments"]] == renamed


@pytest.mark.parametrize("name", SCENARIOS)
def test_exported_rows_of_an_old_run_are_those_of_the_old_version(
    name: str, tmp_path: Path
) -> None:
    """Number by number, column by column, as JSON and as CSV."""
    old = copy_run(name, tmp_path)
    command = ("export", old.run_id, "--dir", tmp_path, "--format")

    assert json.loads(_ask(*command, "json")) == old.expected["json"]
    assert _ask(*command, "csv").splitlines() == old.expected["csv"]


@pytest.mark.parametrize("name", SCENARIOS)
def test_rows_of_an_old_run_are_read_in_order_and_to_the_bit(name: str, tmp_path: Path) -> None:
    """By the library, beside what JSON itself says of the lines."""
    old = copy_run(name, tmp_path)

    run = find_run(old.run_id, tmp_path)
    rows = list(run.rows())

    assert isinstance(run, LocalRun)
    lines = old.rows()
    assert [(r.seq, r.step, r.time_s) for r in rows] == [
        (line["seq"], line["step"], line["time"]) for line in lines
    ]
    assert [r.attempt for r in rows] == [row["attempt"] for row in old.expected["json"]]
    numbers = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    assert repr([r.values for r in rows]) == repr(
        [{k: numbers.get(str(v), v) for k, v in line["values"].items()} for line in lines]
    )


# --- delivering by hand ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_old_run_is_delivered_by_hand_each_row_once_as_the_old_version_did(
    name: str, server: WandbServer, tmp_path: Path
) -> None:
    """The server ends with the very history that the old code's delivery gave it.

    Rows that it had before are not sent again: they stay as they came, clocks included. The old
    offline directories are marked, or `wandb sync` would upload their rows a second time, and a
    second delivery does nothing.
    """
    old = copy_run(name, tmp_path)
    known = preload(server, name)
    arrived = known.history if known is not None else []
    assert len(arrived) == {"online_resumed": 20, "online_interrupted": 11}.get(name, 0)

    first = deliver(old.directory)

    run = server.runs[old.run_id]
    assert (first["delivered"], first["already"]) == (True, False)
    assert list(server.runs) == [old.run_id]
    assert _values(run.history) == _old_values(old.rows())
    _assert_steps_rise(run)
    assert run.history[: len(arrived)] == arrived
    assert _history(run) == [json.dumps(row, sort_keys=True) for row in old.expected["delivered"]]
    times = {row["time"] for row in old.rows()}
    assert {row["time/logged_at"] for row in run.history[len(arrived) :]} <= times
    assert run.display_name == old.expected["show"]["name"]
    assert sorted(run.tags) == sorted(old.expected["show"]["header"]["tags"])
    directories = offline_dirs(tmp_path)
    assert bool(directories) == name.startswith("offline")
    assert all(any(directory.glob("run-*.wandb.synced")) for directory in directories)
    sent = repr((run.upserts, run.history, server.artifacts))

    second = deliver(old.directory)

    assert (second["delivered"], second["already"]) == (True, True)
    assert repr((run.upserts, run.history, server.artifacts)) == sent


def test_artifacts_that_the_old_version_left_staged_arrive(
    server: WandbServer, tmp_path: Path
) -> None:
    """From a checkout, where times and inodes are new: contents, names and aliases; then no more.

    The manifest still says what the files were when they were staged.
    """
    old = copy_run("artifacts_pending", tmp_path)
    staged = old.directory / "artifacts" / "segment-0001"
    files = {
        path.relative_to(folder / "files").as_posix(): path.read_bytes()
        for folder in staged.iterdir()
        for path in (folder / "files").rglob("*")
    }

    assert deliver(old.directory)["delivered"]

    config, model = sorted(server.artifacts, key=lambda artifact: artifact.type)
    assert (config.name, config.type, config.state) == (
        f"config-{old.run_id}",
        "config",
        "COMMITTED",
    )
    assert (model.name, model.type, model.state) == (f"model-{old.run_id}", "model", "COMMITTED")
    assert (set(config.aliases), set(model.aliases)) == ({"latest"}, {"latest", "step4"})
    assert config.files | model.files == files
    assert set(files) == {"config.yaml", "model.pt", "state.txt"}
    assert not (old.directory / "artifacts").exists()


def test_an_artifact_of_the_old_version_that_was_changed_since_is_not_uploaded(
    server: WandbServer, tmp_path: Path
) -> None:
    """The old manifest is still believed: a file of another size is not what was logged."""
    old = copy_run("artifacts_pending", tmp_path)
    with (old.directory / "artifacts/segment-0001/0002/files/model.pt").open("ab") as file:
        file.write(b"more")

    deliver(old.directory)

    assert [(artifact.type, artifact.state) for artifact in server.artifacts] == [
        ("config", "COMMITTED")
    ]
    assert _values(server.runs[old.run_id].history) == _old_values(old.rows())


def test_an_offline_part_of_the_old_version_that_the_user_synced_is_not_sent_again(
    server: WandbServer, tmp_path: Path
) -> None:
    """W&B's own `wandb sync` uploads its directory; an online resume finds the rows there."""
    old = copy_run("offline_proven", tmp_path)
    lines = old.rows()
    command = [sys.executable, "-m", "wandb", "sync", *map(str, offline_dirs(tmp_path))]
    subprocess.run(command, check=True, capture_output=True)
    run = server.runs[old.run_id]
    before = run.history
    assert _values(before) == _old_values(lines)

    _resume(old.run_id, "online")

    assert run.history[: len(before)] == before
    assert _values(run.history) == _old_values(lines) + _new_values()


def test_a_marker_of_wandb_sync_alone_proves_nothing_of_an_old_run(
    server: WandbServer, tmp_path: Path
) -> None:
    """It is set though nothing was uploaded; the old cursor knows how far the server should be."""
    old = copy_run("offline_proven", tmp_path)
    (directory,) = offline_dirs(tmp_path)
    (directory / f"run-{old.run_id}.wandb.synced").touch()

    assert deliver(old.directory)["delivered"]
    assert _values(server.runs[old.run_id].history) == _old_values(old.rows())


def test_old_rows_are_told_from_those_of_another_directory_by_their_contents(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delivery was interrupted, the run went on elsewhere, and only then the rest is delivered.

    The server's last step says nothing about our rows then.
    """
    old = copy_run("online_interrupted", tmp_path)
    run = preload(server, "online_interrupted")
    assert run is not None
    arrived = len(run.history)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    _resume(old.run_id, "online")
    between = run.history
    assert len(between) == arrived + len(NEW_STEPS)

    assert deliver(old.directory)["delivered"]

    assert run.history[: len(between)] == between
    assert _values(run.history) == _old_values(old.rows()) + _new_values()
    _assert_steps_rise(run)


# --- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("offline_killed", "online_resumed", "online_interrupted"),
        *("artifacts_pending", "torn_header"),
    ],
)
def test_an_old_run_is_resumed_online_and_every_row_of_both_versions_arrives_once(
    name: str, server: WandbServer, tmp_path: Path
) -> None:
    """First what the old version left behind, then the new rows, in one run."""
    old = copy_run(name, tmp_path)
    preload(server, name)
    lines, written = old.rows(), _bytes(old)

    _resume(old.run_id, "online")

    run = server.runs[old.run_id]
    assert list(server.runs) == [old.run_id]
    assert _values(run.history) == _old_values(lines) + _new_values()
    assert [row["step"] for row in run.history][-len(NEW_STEPS) :] == list(NEW_STEPS)
    _assert_steps_rise(run)
    assert (run.state, run.display_name) == ("finished", old.expected["show"]["name"])
    artifacts = [artifact.state for artifact in server.artifacts]
    assert artifacts == (["COMMITTED"] * 2 if name == "artifacts_pending" else [])
    assert deliver(old.directory)["already"]
    after = _bytes(old)
    assert {name: after[name] for name in written} == written
    headers = [json.loads(after[name].split(b"\n")[0]) for name in sorted(after.keys() - written)]
    assert [(h["version"], h["attempt"]) for h in headers] == [(FORMAT_VERSION, len(after))]


@pytest.mark.parametrize("name", ["offline_killed", "online_resumed", "torn_header"])
def test_an_old_run_is_resumed_offline_and_uploaded_later(
    name: str, server: WandbServer, tmp_path: Path
) -> None:
    """A new offline directory gets what is not proven to be elsewhere, and all arrives once.

    One that a delivery was killed over holds some of the rows, all of which are written anew: it
    is removed, lest `wandb sync` finds both.
    """
    old = copy_run(name, tmp_path)
    preload(server, name)
    lines, unproven = old.rows(), old.rows(proven=False)

    _resume(old.run_id, "offline")

    (directory,) = offline_dirs(tmp_path)
    assert _values(wandb_rows(directory)) == _old_values(unproven) + _new_values()
    assert deliver(old.directory)["delivered"]
    run = server.runs[old.run_id]
    assert _values(run.history) == _old_values(lines) + _new_values()
    _assert_steps_rise(run)


def test_offline_rows_that_the_old_version_has_proven_are_not_written_again(tmp_path: Path) -> None:
    """Its finished directory stays as it is, and `wandb sync` takes both."""
    old = copy_run("offline_proven", tmp_path)
    (first,) = offline_dirs(tmp_path)
    lines, before = old.rows(), wandb_rows(first)
    assert _values(before) == _old_values(lines)

    _resume(old.run_id, "offline")

    second = next(directory for directory in offline_dirs(tmp_path) if directory != first)
    assert wandb_rows(first) == before
    assert _values(wandb_rows(second)) == _new_values()
    assert max(row["_step"] for row in before) < min(r["_step"] for r in wandb_rows(second))
