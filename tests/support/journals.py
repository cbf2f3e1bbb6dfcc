"""Journals: made by hand, for what reads them without a tracker, and read back, line by line."""

from __future__ import annotations

import dataclasses
import os
import socket
import time
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from fasttrack.journal.cursor import SegmentLedger, load_cursor
from fasttrack.journal.entries import (
    FORMAT_VERSION,
    Console,
    Finish,
    Header,
    encode,
)
from fasttrack.journal.media import MediaRow, encode_media
from fasttrack.journal.reader import count_rows, read_header, read_segment
from fasttrack.journal.rows import Row, encode_row
from fasttrack.journal.run_directory import (
    cursor_path,
    run_directory,
    segment_name,
    segments,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fasttrack.journal.entries import Recorded

EntryT = TypeVar("EntryT")
Line: TypeAlias = "Row | Console | Recorded | Finish"

TAGS = ("model:eo1", "dataset:lego", "objective:ar+fm", "experiment_group:baseline")
DEAD_PID = 2**22 + 1  # above Linux's greatest


def make_header(run_id: str, **changes: Any) -> Header:
    """Return the header of a run on this host whose trainer is gone."""
    told: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "run_id": run_id,
        "project": "vla-lego",
        "name": f"name of {run_id}",
        "tags": TAGS,
        "config": {"lr": 0.1},
        "mode": "offline",
        "time_s": time.time(),
        "pid": DEAD_PID,
        "host": socket.gethostname(),
        "argv": ("train.py",),
        "cwd": os.getcwd(),
    }
    return Header(**{**told, **changes})


def row(seq: int, step: int, time_s: float | None = None, /, **values: float) -> Row:
    """Return a row; a metric's name is an argument's with "__" for each "/"."""
    named = {name.replace("__", "/"): value for name, value in values.items()}
    return Row(seq, step, time.time() if time_s is None else time_s, named)


def rows_of(metrics: Mapping[str, list[float]], *, first_step: int = 0) -> list[Row]:
    """Return rows that hold, one after the other, the values of each metric."""
    longest = max(map(len, metrics.values()))
    now_s = time.time()
    return [
        Row(
            seq,
            first_step + seq,
            now_s,
            {name: values[seq] for name, values in metrics.items() if seq < len(values)},
        )
        for seq in range(longest)
    ]


def windows(
    steps: range, own: list[float], data: list[float], missing: int = 0, **more: float
) -> list[Row]:
    """Return rows of windows, whose steps take 100 ms; `own` and `data` are the ranks', in ms."""
    values: dict[str, list[float]] = {"ranks/step": list(steps)}
    for name, each in (("own_time_ms", own), ("data_wait_ms", data), ("step_time_ms", [100.0])):
        figures = {"mean": sum(each) / len(each), "max": max(each), "argmax": each.index(max(each))}
        values |= {f"ranks/{name}/{key}": [value] * len(steps) for key, value in figures.items()}
    told = {"missing": missing, "stragglers": 0, "one_off_stragglers": 0, **more}
    values |= {f"ranks/{name}": [value] * len(steps) for name, value in told.items()}
    return rows_of(values, first_step=steps.start)


def finish(exit_code: int = 0, *, preempting: bool = False) -> Finish:
    """Return an attempt's last line."""
    return Finish(exit_code=exit_code, preempting=preempting, time_s=time.time())


def line_of(entry: Header | Line) -> bytes:
    """Return an entry as it stands in a segment."""
    if isinstance(entry, MediaRow):
        return encode_media(entry)
    if isinstance(entry, Row):
        return encode_row(entry.seq, entry.step, entry.time_s, entry.values)
    return encode(entry)


def write_attempt(base: Path, run_id: str, *entries: Line, **changes: Any) -> Path:
    """Write the next attempt of a run under `base`; return its segment.

    Args:
        base: the parent of `wandb/`.
        run_id: the run's.
        entries: what follows the header.
        changes: fields of the header that shall be other than `make_header` has them.
    """
    directory = run_directory(base, run_id)
    directory.mkdir(parents=True, exist_ok=True)
    number = len(segments(directory)) + 1
    segment = directory / segment_name(number)
    header = make_header(run_id, attempt=number, **changes)
    segment.write_bytes(b"".join(map(line_of, (header, *entries))))
    return segment


def append(segment: Path, *entries: Line, torn: bytes = b"") -> None:
    """Write more lines at the end of a segment, and half a one behind them."""
    with segment.open("ab") as file:
        file.write(b"".join(map(line_of, entries)) + torn)


def change_header(segment: Path, **changes: Any) -> None:
    """Write other facts into a segment's header, as another machine or time would have."""
    header = read_header(segment)
    assert header is not None
    rest = segment.read_bytes().split(b"\n", 1)[1]
    segment.write_bytes(line_of(dataclasses.replace(header, **changes)) + rest)


def write_proofs(
    run_dir: Path,
    backend: str = "wandb",
    *,
    proof: str | None = None,
    offline_proof: str | None = None,
    attempts: set[int] | None = None,
    **ledger: Any,
) -> None:
    """Note in a run's cursor what proves that its rows, as they are now, have arrived.

    Args:
        run_dir: the run's directory.
        backend: where they have arrived.
        proof: what proves it.
        offline_proof: what proves that a stand-in has them.
        attempts: of which attempts; None: of all.
        ledger: `url`, `directory` or `notes` of the ledger.
    """
    path = cursor_path(run_dir)
    cursor = load_cursor(path)
    told = cursor.ledger(backend)
    for name, value in ledger.items():
        setattr(told, name, value)
    for number, segment in enumerate(segments(run_dir), 1):
        if attempts is None or number in attempts:
            rows = count_rows(segment)
            told.segments[segment.name] = SegmentLedger(
                rows=rows,
                arrived=rows if proof else 0,
                size_bytes=segment.stat().st_size,
                proof=proof,
                offline_proof=offline_proof,
            )
    cursor.save(path)


def read_entries(run_dir: Path, kind: type[EntryT]) -> list[EntryT]:
    """Return the entries of one kind in all segments of a run, in order."""
    return [
        entry
        for path in segments(run_dir)
        for entry in read_segment(path)
        if isinstance(entry, kind)
    ]


def read_rows(run_dir: Path, key: str | None = None) -> list[Row]:
    """Return a run's rows in order; with `key` those that hold this metric."""
    rows = read_entries(run_dir, Row)
    return rows if key is None else [row for row in rows if key in row.values]


def read_headers(run_dir: Path) -> list[Header]:
    """Return the header of each attempt, oldest first."""
    return read_entries(run_dir, Header)
