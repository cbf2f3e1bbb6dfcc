"""Compare a run's journal with what its destinations hold.

`python -m fasttrack.delivery.verification RUN`:

A process of its own, as delivery is: clients are imported here and nowhere else, and whoever asks
can give up on it; so does it itself where a client's helper lies still. It prints one JSON object a
place, changes nothing, and ends with 0; with 3 where another process delivers the run. With
`--recheck` it compares nothing: it has the next delivery look for every row of the run by content.
"""

from __future__ import annotations

import argparse
import fcntl
import math
import os
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import orjson

from fasttrack.delivery.backends.base import Place
from fasttrack.delivery.backends.registry import make_backend
from fasttrack.delivery.contents import compare, numbered_rows, step_ranges
from fasttrack.delivery.watchdog import Watchdog
from fasttrack.errors import BackendError, BackendLostError
from fasttrack.journal.cursor import load_cursor
from fasttrack.journal.destinations import segments_by_backend
from fasttrack.journal.entries import merge_headers
from fasttrack.journal.json_bytes import json_bytes
from fasttrack.journal.reader import read_header
from fasttrack.journal.run_directory import attempt, cursor_path, lock_path, segments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fasttrack.delivery.backends.base import Holding
    from fasttrack.journal.cursor import Cursor

_BUSY = 3
_HUNG = 75  # as of delivery
_MOST_LISTED = 1000  # missing rows that are named


def verify(run_dir: Path, watchdog: Watchdog) -> Iterator[dict[str, Any]]:
    """Yield what each destination of a run holds of it, place by place; see `PlaceVerdict`.

    Args:
        run_dir: the run's directory.
        watchdog: watches the clients' helpers meanwhile.

    Raises:
        OSError: a segment cannot be read.
    """
    cursor = load_cursor(cursor_path(run_dir))
    headers = {path: read_header(path) for path in segments(run_dir)}
    for name, paths in segments_by_backend(headers).items():
        header = merge_headers([known for path in paths if (known := headers[path])])
        assert header is not None  # one of them named the backend
        place = Place(
            run_dir=run_dir,
            ledger=cursor.ledger(name),
            save=lambda: None,
            in_trainer=False,
            leave_out=lambda what: None,
        )
        try:
            backend = make_backend(name, place)
            with watchdog.call(name, "the comparison", math.inf, backend.helper):
                holdings = backend.holdings(header, paths)
        except (BackendError, KeyError) as error:
            attempts = [attempt(path) for path in paths]
            yield {"backend": name, "attempts": attempts, "error": str(error) or repr(error)}
            continue
        for holding in holdings:
            with watchdog.call(name, "the comparison", math.inf, backend.helper):
                told = _verdict(holding, cursor, name)
            yield {"backend": name, **told}


def _verdict(holding: Holding, cursor: Cursor, backend: str) -> dict[str, Any]:
    told: dict[str, Any] = {
        "place": holding.place,
        "attempts": [attempt(path) for path in holding.segments],
    }
    try:
        found = compare(lambda: numbered_rows(holding.segments), holding.rows, kept=holding.kept)
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


@contextmanager
def _locked(run_dir: Path) -> Iterator[bool]:
    """Hold the run's lock; yield whether nobody else does. A read-only copy is nobody's."""
    try:
        lock = os.open(lock_path(run_dir), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield True
        return
    try:
        yield _try_lock(lock)
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


def _give_up(owner: str, why: str) -> NoReturn:
    print(f"{owner}: {why}", file=sys.stderr, flush=True)
    os._exit(_HUNG)


def main() -> int:
    """Compare and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fasttrack.delivery.verification")
    parser.add_argument("run", type=Path, help="the run's journal, wandb/fasttrack/<run id>")
    parser.add_argument("--recheck", action="store_true", help="compare at the next delivery")
    arguments = parser.parse_args()
    with _locked(arguments.run) as free:
        if not free:
            return _BUSY
        if arguments.recheck:
            recheck(arguments.run)
            return 0
        watchdog = Watchdog(on_hang=_give_up)
        watchdog.start()
        for told in verify(arguments.run, watchdog):
            line = json_bytes({"event": "place", **told}, orjson.OPT_APPEND_NEWLINE)
            print(line.decode(), end="", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
