"""MLflow and trackio: what their own readers find; no row is lost, or there twice."""

from __future__ import annotations

import math
import random
import shutil
import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from support.heaps import Heap, MlflowHeap, TrackioHeap, counted, deliver_here
from support.journals import append, finish, row, rows_of

from fasttrack.delivery.backends.mlflow.names import name_for
from fasttrack.delivery.backends.trackio.database import name_for as trackio_name_for
from fasttrack.delivery.verification import recheck, verify
from fasttrack.delivery.watchdog import Watchdog
from fasttrack.journal.cursor import load_cursor
from fasttrack.journal.entries import Config
from fasttrack.journal.media import MediaRow, encode_media
from fasttrack.journal.rows import Row
from fasttrack.journal.run_directory import cursor_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.heaps import Values

NAMES = ["loss", "train/lr", "acc@5", "ä", "step", "a b"]
SPELLED: dict[str, Callable[[str], str]] = {"mlflow": name_for, "trackio": trackio_name_for}


def spelled(heap: Heap, rows: list[Row]) -> Values:
    """Return what of `rows` is to be seen, under the names that the destination has for them."""
    spell = SPELLED[heap.backend]
    return counted((row.step, {spell(k): v for k, v in row.values.items()}) for row in rows)


def random_rows(seed: int, count: int = 200) -> list[Row]:
    """Return rows whose steps go back, repeat and are negative, within milliseconds."""
    rng = random.Random(seed)
    step, time_s, rows = -3, 1e9, []
    for seq in range(count):
        step += rng.choice((0, 0, 1, 1, 10, -1, -25))
        time_s += rng.choice((0.0, 0.0003, 0.5))
        names = rng.sample(NAMES, rng.randint(1, 4))
        values = [rng.choice((rng.gauss(0, 1e3), math.nan, float(seq), 2**40)) for _ in names]
        rows.append(Row(seq, step, time_s, dict(zip(names, values, strict=True))))
    return rows


@pytest.fixture(params=["mlflow", "trackio"])
def heap(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Heap:
    """A destination that only this test's runs go to."""
    project = f"{request.node.nodeid.rpartition('::')[2]}"
    project = "".join(letter if letter.isalnum() else "-" for letter in project)[:100]
    made: Heap = TrackioHeap(project)
    if request.param == "mlflow":
        made = MlflowHeap(project, tmp_path)
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    return made


# --- rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_rows_read_back_are_those_of_the_journal(tmp_path: Path, heap: Heap, seed: int) -> None:
    """Whatever their names, steps, times and numbers are."""
    rows = random_rows(seed)
    segment = heap.record(tmp_path, *rows, finish())

    done = deliver_here(segment.parent)[heap.backend]

    assert done.delivered, done.reason
    assert done.proof is not None
    assert done.proof.startswith("200 rows read back from ")
    assert heap.values_of_the_run() == spelled(heap, rows)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinity_arrives(tmp_path: Path, heap: Heap, value: float) -> None:
    """MLflow's databases know none, and keep the greatest number; verify knows that."""
    segment = heap.record(tmp_path, row(0, 0, loss=value), finish())

    assert deliver_here(segment.parent)[heap.backend].delivered
    ((_, _, found),) = heap.values_of_the_run()
    kept = math.copysign(sys.float_info.max, value) if heap.backend == "mlflow" else value
    assert found == kept


@pytest.mark.parametrize("value", [2**64 - 1, -(2**63), 2**53 + 1, 0.1, 5e-324, -0.0, True])
def test_a_number_arrives(tmp_path: Path, heap: Heap, value: float) -> None:
    """As the nearest one of 64 bits."""
    segment = heap.record(tmp_path, row(0, 2**64 - 1, loss=value), finish())

    assert deliver_here(segment.parent)[heap.backend].delivered
    ((step, _, found),) = heap.values_of_the_run()
    assert (step, found) == (2**63 - 1, float(value) + 0.0)


def test_a_row_logged_twice_is_there_twice(tmp_path: Path, heap: Heap) -> None:
    """With one step, one number and one time: MLflow would take the second for the first."""
    rows = [row(seq, 7, 1e9, loss=1.0) for seq in range(5)]
    segment = heap.record(tmp_path, *rows, finish())

    assert deliver_here(segment.parent)[heap.backend].delivered
    assert heap.values_of_the_run() == {(7, "loss", 1.0): 5}


def test_a_run_without_rows_is_delivered(tmp_path: Path, heap: Heap) -> None:
    segment = heap.record(tmp_path, finish())

    done = deliver_here(segment.parent)[heap.backend]
    assert (done.delivered, done.proof) == (True, "no rows")


def test_media_that_are_not_to_be_had_hold_up_nothing(tmp_path: Path, heap: Heap) -> None:
    """trackio is given none, and of MLflow's the file is gone. They take no row's place."""
    picture = MediaRow(1, 1, 1e9, name="sample", type="text", files=("0" * 20 + ".txt",))
    segment = heap.record(tmp_path, row(0, 0, loss=1.0))
    with segment.open("ab") as file:
        file.write(encode_media(picture))
    append(segment, row(2, 2, loss=2.0), finish())

    assert deliver_here(segment.parent)[heap.backend].delivered
    assert heap.values_of_the_run() == {(0, "loss", 1.0): 1, (2, "loss", 2.0): 1}


# --- again, and again ---------------------------------------------------------------------------


@pytest.mark.parametrize("forget", [False, True])
def test_a_second_delivery_goes_on_behind_the_first(
    tmp_path: Path, heap: Heap, forget: bool
) -> None:
    """Also where what was known of the first is lost, as after a kill, or on another machine."""
    rows = random_rows(1)
    segment = heap.record(tmp_path, *rows[:90])
    assert deliver_here(segment.parent)[heap.backend].delivered
    if forget:
        cursor_path(segment.parent).unlink()
    append(segment, *rows[90:], finish())

    assert deliver_here(segment.parent)[heap.backend].delivered
    assert heap.values_of_the_run() == spelled(heap, rows)
    assert deliver_here(segment.parent)[heap.backend].already


def test_attempts_that_tell_a_step_again_are_both_there(tmp_path: Path, heap: Heap) -> None:
    """Resumed from a checkpoint; some numbers come out the same, and are there twice."""
    first = [row(seq, seq, 1e9 + seq, loss=float(seq)) for seq in range(20)]
    again = [row(seq, 15 + seq, 1.1e9 + seq, loss=15.0 + seq) for seq in range(15)]
    segment = heap.record(tmp_path, *first, finish(1))
    assert deliver_here(segment.parent)[heap.backend].delivered
    heap.record(tmp_path, *again, finish(), resumed=True, name=None)

    assert deliver_here(segment.parent)[heap.backend].delivered
    assert heap.values_of_the_run() == spelled(heap, first + again)


def test_a_run_that_went_elsewhere_is_added_later(tmp_path: Path, heap: Heap) -> None:
    """All attempts of it; from then on it is one of the run's destinations."""
    rows = rows_of({"loss": [float(step) for step in range(20)]})
    segment = heap.record(tmp_path, *rows[:10], finish(), backends=())
    heap.record(tmp_path, *rows[10:], finish(), backends=())
    run_dir = segment.parent

    done = deliver_here(run_dir, (heap.backend,))

    assert done[heap.backend].delivered
    assert heap.values_of_the_run() == spelled(heap, rows)
    assert load_cursor(cursor_path(run_dir)).added == [heap.backend]
    again = deliver_here(run_dir)
    assert (list(again), again[heap.backend].already) == ([heap.backend], True)


def test_two_copies_of_a_run_that_went_on_are_both_there(tmp_path: Path, heap: Heap) -> None:
    """Rows are known by what they are, not by their number in the run."""
    common = rows_of({"loss": [float(step) for step in range(5)]})
    segment = heap.record(tmp_path / "a", *common, finish(1))
    assert deliver_here(segment.parent)[heap.backend].delivered
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    ours = rows_of({"loss": [10.0, 11.0]}, first_step=5)
    theirs = rows_of({"loss": [20.0, 21.0, 22.0]}, first_step=5)
    for base, more in ((tmp_path / "a", ours), (tmp_path / "b", theirs)):
        segment = heap.record(base, *more, finish(), resumed=True)
        assert deliver_here(segment.parent)[heap.backend].delivered

    assert heap.values_of_the_run() == spelled(heap, common + ours + theirs)


# --- configuration ------------------------------------------------------------------------------


def test_the_configuration_is_there(tmp_path: Path, heap: Heap) -> None:
    """Also what became known after the last row."""
    config = {"lr": 0.1, "model": {"layers": 3}}
    late = Config({"batch_size": 8})
    segment = heap.record(tmp_path, row(0, 0, loss=1.0), late, finish(), config=config)
    assert deliver_here(segment.parent)[heap.backend].delivered
    append(segment, Config({"epochs": 4}), finish())
    assert deliver_here(segment.parent)[heap.backend].delivered

    found = heap.config(heap.runs()[0])
    if heap.backend == "mlflow":
        assert found == {"lr": "0.1", "model.layers": "3", "batch_size": "8", "epochs": "4"}
    else:
        expected = {**config, "batch_size": 8, "epochs": 4}
        assert {name: found.get(name) for name in expected} == expected
    assert sum(heap.values_of_the_run().values()) == 1


# --- trackio's own ------------------------------------------------------------------------------


def test_a_project_that_trackio_does_not_take_is_said(tmp_path: Path) -> None:
    """Its database would be another's."""
    heap = TrackioHeap("registry-models")
    segment = heap.record(tmp_path, row(0, 0, loss=1.0), finish())

    done = deliver_here(segment.parent)["trackio"]

    assert not done.delivered
    assert done.reason is not None
    assert "registry-" in done.reason


# --- what was there and is no more --------------------------------------------------------------


@pytest.mark.parametrize("lost", [1, 20])
def test_rows_that_vanish_are_found_and_sent_again(tmp_path: Path, heap: Heap, lost: int) -> None:
    """`fasttrack verify --repair`: each value once; nothing else is touched."""
    rows = [row(seq, seq, 1e9 + seq, loss=float(seq)) for seq in range(20)]
    segment = heap.record(tmp_path, *rows, finish())
    deliver_here(segment.parent)
    with closing(sqlite3.connect(heap.database)) as connection, connection:
        connection.execute("DELETE FROM metrics WHERE step < ?", (lost,))

    (before,) = verify(segment.parent, Watchdog())
    recheck(segment.parent)
    done = deliver_here(segment.parent)[heap.backend]
    (after,) = verify(segment.parent, Watchdog())

    assert (before["missing"], before["missing_steps"]) == (lost, [[0, lost - 1]])
    assert done.delivered, done.reason
    assert (after["missing"], after["doubled"], after["rows"]) == (0, 0, 20)
    assert heap.values_of_the_run() == spelled(heap, rows)


def test_a_destination_that_is_not_there_lacks_everything(tmp_path: Path, heap: Heap) -> None:
    """Looking for a run makes none."""
    segment = heap.record(tmp_path, row(0, 0, loss=1.0), finish())

    (place,) = verify(segment.parent, Watchdog())

    assert (place["rows"], place["missing"]) == (1, 1)
    assert heap.runs() == []
