"""How many rows a second one thread gets into the journal, none lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bench.lib.processes import call_in_new_process
from bench.lib.scalars import FIVE
from bench.lib.trackers import cut_short, rows_in_journal
from bench.targets.figure import ROUNDS, Figure, over_rounds

if TYPE_CHECKING:
    from fasttrack import ExperimentTracker

_BURST = 50_000
_PACE = 21_000  # rows/s; above the target, or the last flush alone would miss it
_TICK_S = 0.005
_WARM_UP_ROWS = 1000


def bursts(quick: bool) -> list[Figure]:
    """Measure bursts of 50,000 rows, from the first call to the last row being on disk."""
    rows, rounds = (2000, 2) if quick else (_BURST, ROUNDS)
    found = call_in_new_process(burst_rounds, rows, rounds)
    return [
        over_rounds(
            f"bursts of {rows:,} rows, into the journal",
            found["written"],
            "rows/s",
            100_000,
            at_least=True,
            note=f"dropped {found['dropped']}, {found['in_journal']:,} rows found in the files",
        ),
        over_rounds("the same, until the last call returned", found["called"], "rows/s"),
    ]


def burst_rounds(rows: int, rounds: int) -> dict[str, object]:
    """Log bursts, each flushed; return rows/s of each, until called and until written."""
    called, written = [], []
    with cut_short() as tracker:
        _log(tracker, 0, _WARM_UP_ROWS)
        tracker.flush()
        for number in range(rounds):
            start_s = time.perf_counter()
            _log(tracker, _WARM_UP_ROWS + number * rows, rows)
            called.append(rows / (time.perf_counter() - start_s))
            if not tracker.flush(60.0):
                raise RuntimeError("the worker did not write the burst within a minute")
            written.append(rows / (time.perf_counter() - start_s))
        return {
            "called": called,
            "written": written,
            **_count(tracker, _WARM_UP_ROWS + rows * rounds),
        }


def minute(quick: bool) -> list[Figure]:
    """Measure a minute of rows logged evenly, 21,000 a second."""
    found = call_in_new_process(paced, _PACE, 1.0 if quick else 60.0)
    return [
        Figure(
            f"{found['seconds']:.0f} s at a steady pace, into the journal",
            found["rows_per_s"],
            "rows/s",
            20_000,
            at_least=True,
            note=f"asked for {_PACE:,} rows/s; dropped {found['dropped']}, "
            f"{found['in_journal']:,} rows found in the files, "
            f"at most {found['ring_high_water']:,} waited in the ring",
        )
    ]


def paced(rows_per_s: float, seconds: float) -> dict[str, float]:
    """Log at a steady pace; return the rate that came about, the last row being on disk."""
    with cut_short() as tracker:
        logged = 0
        start_s = time.perf_counter()
        while (elapsed_s := time.perf_counter() - start_s) < seconds:
            due = int(elapsed_s * rows_per_s)
            _log(tracker, logged, due - logged)
            logged = due
            time.sleep(_TICK_S)
        tracker.flush(60.0)
        took_s = time.perf_counter() - start_s
        return {"rows_per_s": logged / took_s, "seconds": took_s, **_count(tracker, logged)}


def _log(tracker: ExperimentTracker, first_step: int, rows: int) -> None:
    for step in range(first_step, first_step + rows):
        tracker.log_metrics(FIVE, step)


def _count(tracker: ExperimentTracker, logged: int) -> dict[str, int]:
    """Return what was dropped and what is in the journal.

    Raises:
        RuntimeError: not all that was logged is accounted for.
    """
    run_dir, stats = tracker.get_run_dir(), tracker.stats()
    assert run_dir is not None
    in_journal = rows_in_journal(run_dir)
    if in_journal + stats.dropped != logged:
        raise RuntimeError(f"{logged} rows logged, {in_journal} in the journal: {stats}")
    return {
        "dropped": stats.dropped,
        "in_journal": in_journal,
        "ring_high_water": stats.ring_high_water,
    }
