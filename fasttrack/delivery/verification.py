"""Compare a run's journal with what its destinations hold.

`python -m fasttrack.delivery.verification RUN`:

A process of its own, as delivery is: clients are imported here and nowhere else, and whoever asks
can give up on it; so does it itself where nothing is read for long. It prints one JSON object a
place, changes nothing, and ends with 0; with 2 where there is nothing to compare, with 3 where
another process delivers the run (which it names), and with 75 where it gave up. With `--recheck` it
compares nothing: it has the next delivery look for every row of the run by content.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import orjson

from fasttrack.delivery.backends.base import Place
from fasttrack.delivery.backends.registry import make_backend
from fasttrack.delivery.contents import compare, numbered_rows, step_ranges, watched
from fasttrack.delivery.events import Beat, Busy, encode
from fasttrack.delivery.quick_exit import leave_with
from fasttrack.delivery.run_lock import describe_holder, locked
from fasttrack.delivery.spawn import BUSY, HUNG
from fasttrack.delivery.watchdog import Watchdog
from fasttrack.errors import BackendError, BackendLostError
from fasttrack.journal.cursor import load_cursor
from fasttrack.journal.destinations import headers_of, segments_by_backend
from fasttrack.journal.entries import merge_headers
from fasttrack.journal.json_bytes import json_bytes
from fasttrack.journal.run_directory import attempt, cursor_path, segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fasttrack.delivery.backends.base import Holding
    from fasttrack.delivery.watchdog import Call
    from fasttrack.journal.cursor import Cursor

_MOST_LISTED = 1000  # missing rows that are named


def verify(run_dir: Path, watchdog: Watchdog) -> Iterator[dict[str, Any]]:
    """Yield what each destination of a run holds of it, place by place; see `PlaceVerdict`.

    Args:
        run_dir: the run's directory.
        watchdog: watches the clients' helpers meanwhile.

    Raises:
        ValueError: no segment of the run has a header or a row.
        OSError: one cannot be read.
    """
    cursor = load_cursor(cursor_path(run_dir))
    headers = headers_of(segments(run_dir), list(cursor.backends))
    for name, paths in segments_by_backend(headers, cursor.added).items():
        header = merge_headers([known for path in paths if (known := headers[path])])
        assert header is not None  # one of them named the backend
        silence_s = 2 * header.hang_timeout_s  # what a slow server may take for a page
        what = f"the comparison, which was shown nothing for {silence_s:g} s,"
        watch = functools.partial(watchdog.call, name, what, silence_s)
        place = Place(
            run_dir=run_dir,
            ledger=cursor.ledger(name),
            save=lambda: None,
            in_trainer=False,
            progress=watchdog.progress,
        )
        unread = {"backend": name, "attempts": [attempt(path) for path in paths]}
        try:
            with watch(None):  # it may import its client
                backend = make_backend(name, place)
        except KeyError:
            yield {**unread, "error": "this version of fasttrack does not know it"}
            continue
        try:
            with watch(backend.helper) as call:
                holdings = backend.holdings(header, paths)
        except BackendError as error:
            yield {**unread, "error": _silence(call) or str(error)}
            continue
        for holding in holdings:
            with watch(backend.helper) as call:
                told = _verdict(holding, cursor, name, watchdog.progress)
            if "error" in told:
                told["error"] = _silence(call) or told["error"]
            yield {"backend": name, **told}


def _silence(call: Call) -> str | None:
    """Return why a comparison failed, if that is because nothing was read for too long."""
    if not call.cut or call.idle_s:  # the client's own helper is dead, or stopped
        return None
    return f"it has shown nothing for {call.budget_s:g} s"


def _verdict(
    holding: Holding, cursor: Cursor, backend: str, moved: Callable[[], None]
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "place": holding.place,
        "attempts": [attempt(path) for path in holding.segments],
    }
    try:
        found = compare(
            lambda: watched(numbered_rows(holding.segments), moved),
            lambda: watched(holding.rows(), moved),
            kept=holding.kept,
        )
    except BackendLostError as error:
        return {**told, "error": str(error)}
    states = [cursor.ledger(backend).segment(path.name) for path in holding.segments]
    return {
        **told,
        "rows": found.rows,
        "values": found.values,
        "lines": found.lines,
        "missing": len(found.missing),
        "replaced": found.replaced,
        "missing_steps": step_ranges(row.step for row in found.missing),
        "missing_rows": [
            [attempt(Path(row.segment)), row.number, row.step]
            for row in found.missing[:_MOST_LISTED]
        ],
        "doubled": found.doubled.total(),
        "doubled_steps": step_ranges(found.doubled),
        "others": found.others.total(),
        "left_out": {name: why for state in states for name, why in state.refused.items()},
        "metrics": {
            name: {"journal": asdict(metric.journal), "held": asdict(metric.held)}
            for name, metric in found.metrics.items()
        },
    }


def recheck(run_dir: Path) -> None:
    """Have the next delivery compare all of a run before it sends what is missing.

    Raises:
        OSError: the cursor cannot be written.
    """
    cursor = load_cursor(cursor_path(run_dir))
    for ledger in cursor.backends.values():
        for state in ledger.segments.values():
            state.recheck, state.arrived, state.proof, state.offline_proof = True, 0, None, None
    cursor.save(cursor_path(run_dir))


def _give_up(owner: str, why: str) -> NoReturn:
    print(f"{owner}: {why}", file=sys.stderr, flush=True)
    os._exit(HUNG)


def main() -> int:
    """Compare and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fasttrack.delivery.verification")
    parser.add_argument("run", type=Path, help="the run's journal, wandb/fasttrack/<run id>")
    parser.add_argument("--recheck", action="store_true", help="compare at the next delivery")
    arguments = parser.parse_args()
    with locked(arguments.run, "fasttrack verify") as got_it:
        if not got_it:
            _print(encode(Busy(holder=describe_holder(arguments.run))))
            return BUSY
        if arguments.recheck:
            recheck(arguments.run)
            return 0
        watchdog = Watchdog(on_hang=_give_up, on_beat=lambda: _print(encode(Beat())))
        watchdog.start()
        try:
            for told in verify(arguments.run, watchdog):
                _print(json_bytes({"event": "place", **told}, orjson.OPT_APPEND_NEWLINE))
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
    return 0


def _print(line: bytes) -> None:
    print(line.decode(), end="", flush=True)


if __name__ == "__main__":
    leave_with(main)
