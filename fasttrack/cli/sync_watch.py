"""`fasttrack sync --watch`: keep delivering, for as long as the command runs."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from fasttrack.cli.shared import note
from fasttrack.runs.local import candidate_directories, find_runs
from fasttrack.runs.watching import Due, Watch
from fasttrack.settings import resolve_base_dir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

    from fasttrack.runs.watching import Told

_ENDING = ("SIGINT", "SIGTERM", "SIGHUP")


def watch_runs(texts: tuple[str, ...], base: Path | None, jobs: int) -> int:
    """Deliver the runs named, or all, again and again until a signal; return the exit code."""
    said = _Said()
    chosen = [run.directory for run in find_runs(texts, base)]
    watch = Watch(
        directories=(lambda: chosen) if texts else (lambda: candidate_directories(base)),
        jobs=jobs,
        on_delivery=said.delivery,
        on_trouble=note,
    )
    where = f"{len(chosen)} runs" if texts else f"the runs under {base or resolve_base_dir()}"
    with _ended_by_signals(watch):
        note(f"watching {where}, {jobs} at a time; Ctrl-C ends it")
        watch.watch()
    failing = [one for one in watch.runs.values() if one.failures and one.due is not Due.NOTHING]
    whole = sum(bool(one.sizes) and one.whole == one.sizes for one in watch.runs.values())
    others = len(watch.runs) - whole
    note(f"{whole} runs are delivered whole; {others} are not, of which {len(failing)} failed")
    return int(bool(failing))


class _Said:
    """Say of a run when its rows begin to arrive, when all of it has, and what goes wrong."""

    def __init__(self) -> None:
        self._arriving: set[str] = set()

    def delivery(self, told: Told) -> None:
        """Say what became of one delivery, where that is news."""
        run_id, result = told.watched.run_id, told.result
        if told.again_in_s is not None:
            self._arriving.discard(run_id)
            trouble = result.reason if result.busy else f"not delivered: {result.reason}"
            note(f"{run_id}: {trouble}; tried again in {told.again_in_s:.0f} s")
        elif told.all_of_it:
            self._arriving.discard(run_id)
            click.echo(f"{run_id}: {result.rows} rows delivered ({result.proof})")
            for what in result.left_out:
                note(f"{run_id}: left out {what}")
        elif run_id not in self._arriving:
            self._arriving.add(run_id)
            where = "" if result.url is None else f"\n  {result.url}"
            click.echo(f"{run_id}: {result.rows} rows delivered, more as they come{where}")


@contextmanager
def _ended_by_signals(watch: Watch) -> Iterator[None]:
    """End `watch` in order by a signal in this block; a second one ends the program."""

    def end(number: int, frame: FrameType | None) -> None:
        watch.stopped.set()
        for name, handler in before.items():
            signal.signal(name, handler)

    numbers = [getattr(signal, name) for name in _ENDING]
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
