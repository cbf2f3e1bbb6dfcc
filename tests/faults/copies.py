"""One id in two places: two writers, and copies of a run that are synced elsewhere."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from faults.rig import Scenario
from faults.rows import STREAM
from support.wandb_server import Fault

if TYPE_CHECKING:
    from pathlib import Path

    from faults.rig import Bench


def _two_writers(bench: Bench) -> None:
    """Go on with a run, from the same directory, while its first trainer is still at it."""
    rows = bench.scenario.rows
    mode = "offline" if bench.seed % 2 else "online"
    first = bench.train(mode=mode, rows=rows)
    first.await_row(bench.random.randrange(5, rows // 2))
    second = bench.train(mode=mode, first=STREAM, rows=rows, run_id=first.run_id)
    second.await_note("open")
    bench.fault_is_over()


def _two_directories(bench: Bench) -> None:
    """Go on with a run from another directory while its trainer is online; either ends first.

    By the seed, the other has asked how many lines the server has, and has the answer only when
    the first has ended; or both send rows in turn, each in the place of the other's.
    """
    server, elsewhere = bench.server, bench.base / "elsewhere"
    holds = [bench.base / "first goes on", bench.base / "second goes on"]
    kind = bench.seed % 3
    if kind == 1:
        bench.may_be_late = True
        bench.variables["WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL"] = "1"
    first = bench.train(hold=str(holds[0]))
    first.await_note("holding")
    run_id = first.run_id
    assert run_id is not None
    server.wait_for(lambda: run_id in server.runs)
    if kind == 0:
        server.fault = Fault("late_reply", operation="UpsertBucket", given="id", times=1)
    second = bench.train(
        first=STREAM, run_id=run_id, hold=str(holds[1]), options={"directory": str(elsewhere)}
    )
    second.await_note("holding")
    bench.directories.append(elsewhere / "wandb")
    server.wait_for(lambda: server.openings(run_id) == 2)
    if kind == 1:
        server.wait_for(lambda: server.runs[run_id].history_line_count)
    both = [*zip((first, second), holds, strict=True)]
    for trainer, hold in reversed(both) if kind == 1 else both:
        hold.touch()
        trainer.await_end()
        server.fault = None
    bench.fault_is_over()


def _copy_live(bench: Bench) -> None:
    """Copy the journal of a live run and sync the copy; then let the trainer end well."""
    hold = bench.base / "go on"
    trainer = bench.train(mode="offline", hold=str(hold))
    trainer.await_row(bench.random.randrange(5, bench.scenario.rows - 20))
    copy = _copy(bench, trainer.run_dir)
    bench.sync(copy)
    hold.touch()
    trainer.await_end()
    bench.await_nobody()
    bench.sync(trainer.run_dir)
    run = bench.server.runs[trainer.run_dir.name]
    bench.require(run.state == "finished", f"the run's state is {run.state}")
    bench.fault_is_over()


def _copy_finished(bench: Bench) -> None:
    """Copy a finished run and sync original and copy, one after the other, twice."""
    trainer = bench.train(mode="offline" if bench.seed % 2 else "online")
    trainer.await_end()
    bench.await_nobody()
    copy = _copy(bench, trainer.run_dir)
    places = [copy, trainer.run_dir]
    bench.random.shuffle(places)
    for place in places * 2:
        bench.sync(place)
    bench.fault_is_over()


def _copy(bench: Bench, run_dir: Path) -> Path:
    """Copy the run's folder as a user would, with all of `wandb/`."""
    elsewhere = bench.base / "copied"
    shutil.copytree(bench.wandb, elsewhere / "wandb", symlinks=True)
    return elsewhere / "wandb" / run_dir.relative_to(bench.wandb)


SCENARIOS = (
    Scenario(
        name="two-writers-of-one-directory",
        family="copies",
        act=_two_writers,
        promise="both attempts' rows arrive once",
        fast=0,
    ),
    Scenario(
        name="two-directories-of-one-id",
        family="copies",
        act=_two_directories,
        promise="both directories' rows arrive once, after a sync of both",
        fast=2,
    ),
    Scenario(
        name="copy-of-a-live-run",
        family="copies",
        act=_copy_live,
        promise="the copy's rows and the rest arrive once; the state is the trainer's",
    ),
    Scenario(
        name="copy-of-a-finished-run",
        family="copies",
        act=_copy_finished,
        promise="each row once, whoever is synced first and how often",
        fast=0,
    ),
)
