"""Runs on this machine's disk: find them, and read them while they are being written.

    run = find_run("ab12")            # or a path, or "latest"
    for row in run.rows():
        row["attempt"], row["seq"], row["step"], row["time"], row["values"]

Reading takes no lock, changes nothing and needs little memory, however long the run is.
"""

from __future__ import annotations

from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrack.errors import FasttrackError
from fasttrack.journal.reader import SegmentReader, read_header
from fasttrack.journal.run_directory import attempt, run_directory, segments
from fasttrack.settings import resolve_base_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROW_KEYS = {"seq", "step", "time", "values"}
_ROW = b'{"kind":"row"'
_CHUNK_BYTES = 4 * 2**20
_MOST_NAMED = 5  # runs that an error lists


class RunError(FasttrackError):
    """The run that was asked for is not there, or is not the only one that is meant."""


class RunReader:
    """Read a run's segments in order; at the end, go on later, in a segment that is new by then.

    Threads: one at a time.
    """

    def __init__(self, directory: Path) -> None:
        """Read the run in `directory` from its first segment."""
        self._directory = directory
        self._reader: SegmentReader | None = None
        self._bad_entries = 0  # of closed segments, and what parses but is no entry

    def read(self) -> list[tuple[int, dict[str, Any]]]:
        """Return the next (attempt, entry) pairs; empty where nothing more is written yet.

        Raises:
            OSError: a segment cannot be read.
        """
        while True:
            following = self._following()  # asked before the last look at the file
            if self._reader is not None:
                number = attempt(self._reader.path)
                while entries := self._reader.read():
                    if whole := [(number, entry) for entry in entries if self._is_whole(entry)]:
                        return whole
            if following is None:
                return []
            self.close()
            self._reader = SegmentReader(following)

    def _is_whole(self, entry: dict[str, Any]) -> bool:
        whole = "kind" in entry and (entry["kind"] != "row" or entry.keys() >= _ROW_KEYS)
        self._bad_entries += not whole
        return whole

    def _following(self) -> Path | None:
        last = 0 if self._reader is None else attempt(self._reader.path)
        return next((path for path in segments(self._directory) if attempt(path) > last), None)

    @property
    def bad_lines(self) -> int:
        """How many damaged lines were skipped so far."""
        return self._bad_entries + (0 if self._reader is None else self._reader.bad_lines)

    def close(self) -> None:
        """Close the open segment."""
        if self._reader is not None:
            self._reader.close()
            self._bad_entries += self._reader.bad_lines
            self._reader = None


class LocalRun:
    """One run's directory.

    Attributes:
        directory: where its segments are.
        bad_lines: how many damaged lines the last complete reading skipped.
    """

    def __init__(self, directory: Path) -> None:
        """Take `directory`, which holds at least one segment."""
        self.directory = directory
        self.bad_lines = 0

    @property
    def segments(self) -> list[Path]:
        """Its segments, one per attempt, as they are now; oldest first."""
        return segments(self.directory)

    @cached_property
    def headers(self) -> list[dict[str, Any]]:
        """The header of each segment; {} where it is damaged."""
        found = [read_header(path) for path in self.segments]
        return [header if header.get("kind") == "header" else {} for header in found]

    @cached_property
    def header(self) -> dict[str, Any]:
        """What the headers say; newer ones win, but for what they leave out (None)."""
        merged: dict[str, Any] = {}
        for header in self.headers:
            merged.update({name: value for name, value in header.items() if value is not None})
        return merged

    @property
    def run_id(self) -> str:
        """The run's id, from its header; a copied directory may have another name."""
        return str(self.header.get("run_id", self.directory.name))

    @property
    def started_s(self) -> float:
        """Unix time at which the first attempt began."""
        return _started_s(self.headers[0], self.segments[0])

    @property
    def resumed_s(self) -> float:
        """Unix time at which the newest attempt began."""
        return _started_s(self.headers[-1], self.segments[-1])

    def entries(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (attempt, entry) for all whole lines that are written by now, in order.

        Raises:
            OSError: a segment cannot be read.
        """
        with closing(RunReader(self.directory)) as reader:
            while batch := reader.read():
                yield from batch
            self.bad_lines = reader.bad_lines

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield all rows that are written by now, in order.

        Each is a dict with `attempt` (int, from 1), `seq` (int, from 0 in each attempt), `step`
        (int), `time` (unix seconds) and `values` (metric name -> float, int or bool; NaN and
        infinities are floats).

        Raises:
            OSError: a segment cannot be read.
        """
        for number, entry in self.entries():
            if entry["kind"] == "row":
                yield as_row(number, entry)

    def metrics(self) -> list[str]:
        """Return the names of all metrics, in the order of their first rows. Reads all rows."""
        names: dict[str, None] = {}
        for row in self.rows():
            names.update(dict.fromkeys(row["values"]))
        return list(names)


def _started_s(header: dict[str, Any], path: Path) -> float:
    return float(header["time"]) if "time" in header else path.stat().st_mtime


def as_row(number: int, entry: dict[str, Any]) -> dict[str, Any]:
    """Return a journal entry of kind `row` as `LocalRun.rows` yields it."""
    return {"attempt": number, **{name: entry[name] for name in ("seq", "step", "time", "values")}}


def count_rows(segment: Path) -> int:
    """Return how many rows `segment` holds. Parses nothing: hundreds of megabytes take no second.

    Raises:
        OSError: it cannot be read.
    """
    count = 0
    rest = b"\n"
    with segment.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            whole, newline, torn = (rest + chunk).rpartition(b"\n")
            count += whole.count(b"\n" + _ROW)
            rest = newline + torn
    return count


def list_runs(base: Path | None = None) -> list[LocalRun]:
    """Return the runs under `base` (the parent of `wandb/`; None: WANDB_DIR, else here).

    The one that was begun or resumed last comes last.

    Raises:
        OSError: a directory or segment cannot be read.
    """
    found = [LocalRun(path) for path in _run_directories(_parent(base))]
    return sorted(found, key=lambda run: (run.resumed_s, run.run_id))


def find_run(text: str, base: Path | None = None) -> LocalRun:
    """Return the run that `text` means.

    Args:
        text: a run's id, the beginning of one id only, the path of a run's directory, wherever it
            was copied to, or "latest", the run that was begun or resumed last.
        base: the parent of `wandb/`; None: WANDB_DIR, else the working directory.

    Raises:
        RunError: there is no such run, or more than one.
        OSError: a directory or segment cannot be read.
    """
    parent = _parent(base)
    for path in (parent / text, Path(text)):
        if text and segments(path):
            return LocalRun(path)
    if text == "latest":
        if runs := list_runs(base):
            return runs[-1]
        raise RunError(f"no runs in {parent}; pass --dir or set WANDB_DIR")
    if "/" in text:
        raise RunError(f"{text} is not a run's directory: it holds no segment-*.jsonl")
    names = sorted(p.name for p in _run_directories(parent) if p.name.startswith(text))
    if len(names) == 1:
        return LocalRun(parent / names[0])
    if names:
        named = ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
        raise RunError(f"{len(names)} runs begin with {text!r}: {named}; give more of the id")
    raise RunError(f"no run {text!r} in {parent}; 'fasttrack runs' lists what is there")


def _parent(base: Path | None) -> Path:
    return run_directory(resolve_base_dir() if base is None else base, "x").parent


def _run_directories(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if segments(path)] if parent.is_dir() else []
