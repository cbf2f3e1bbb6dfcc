"""Runs on this machine's disk: find them, and read them while they are being written.

    run = find_run("ab12")            # or a path, or "latest"
    for row in run.rows():
        row.attempt, row.seq, row.step, row.time_s, row.values

Reading takes no lock, changes nothing and needs little memory, however long the run is.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import orjson

from fasttrack.command import spell_command
from fasttrack.errors import RunNotFoundError, RunUnreadableError
from fasttrack.journal.backwards import lines_backwards
from fasttrack.journal.cursor import load_cursor
from fasttrack.journal.entries import entry_of, merge_headers
from fasttrack.journal.follower import Follower
from fasttrack.journal.reader import read_header
from fasttrack.journal.rows import Number, Row
from fasttrack.journal.run_directory import attempt, cursor_path, run_directory, segments
from fasttrack.settings import resolve_base_dir

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fasttrack.journal.entries import Entry, Header
    from fasttrack.journal.reader import Damage

GROUP_PREFIX = "group:"
_MOST_NAMED = 5  # runs that an error lists


class RunRow(NamedTuple):
    """The metrics of one logged call, and which attempt of the run logged it."""

    attempt: int
    """From 1."""
    seq: int
    """The row's number in its attempt, from 0."""
    step: int
    """The user's training step."""
    time_s: float
    """Unix time at which it was logged."""
    values: dict[str, Number]
    """Metric name to number; NaN and infinities are floats."""

    @classmethod
    def of(cls, segment: Path, row: Row) -> RunRow:
        """Return a journal's row of `segment` as one of the run."""
        return cls(attempt(segment), row.seq, row.step, row.time_s, row.values)


class LocalRun:
    """One run's directory.

    Attributes:
        directory: where its segments are.
        bad_lines: how many damaged lines the last complete reading skipped.
        damage: the first of them, by name.
    """

    def __init__(self, directory: Path) -> None:
        """Take `directory`, which holds at least one segment."""
        self.directory = directory
        self.bad_lines = 0
        self.damage: list[Damage] = []

    @property
    def segments(self) -> list[Path]:
        """Its segments, one per attempt, as they are now; oldest first."""
        return segments(self.directory)

    @cached_property
    def headers(self) -> list[Header | None]:
        """The header of each segment; None where it is damaged."""
        return [read_header(path) for path in self.segments]

    @cached_property
    def header(self) -> Header | None:
        """The newest header, completed from earlier ones; None where all are damaged."""
        return merge_headers([header for header in self.headers if header is not None])

    @property
    def journal_only(self) -> bool:
        """Whether all attempts keep their journal only: no backend is to have their rows."""
        whole = [header for header in self.headers if header is not None]
        if not whole or any(header.backends for header in whole):
            return False
        return not load_cursor(cursor_path(self.directory)).added

    @property
    def run_id(self) -> str:
        """The run's id, from its header; a copied directory may have another name."""
        return self.directory.name if self.header is None else self.header.run_id

    @property
    def name(self) -> str | None:
        """The run's name, as W&B shows it."""
        return None if self.header is None else self.header.name

    @property
    def project(self) -> str | None:
        """The project it belongs to."""
        return None if self.header is None else self.header.project or None

    @property
    def group(self) -> str | None:
        """The group it belongs to."""
        return None if self.header is None else self.header.group

    @property
    def started_s(self) -> float:
        """Unix time at which the first attempt began."""
        return _started_s(self.headers[0], self.segments[0])

    @property
    def resumed_s(self) -> float:
        """Unix time at which the newest attempt began."""
        return _started_s(self.headers[-1], self.segments[-1])

    def entries(self) -> Iterator[tuple[int, Entry]]:
        """Yield (attempt, entry) for all whole lines that are written by now, in order.

        Raises:
            OSError: a segment cannot be read.
        """
        with Follower.of_run(self.directory) as follower:
            for segment, entries in follower.batches():
                number = attempt(segment)
                for entry in entries:
                    yield number, entry
            self.bad_lines, self.damage = follower.bad_lines, follower.damage

    def rows(self) -> Iterator[RunRow]:
        """Yield all rows that are written by now, in order.

        Raises:
            OSError: a segment cannot be read.
        """
        for number, entry in self.entries():
            if type(entry) is Row:
                yield RunRow(number, entry.seq, entry.step, entry.time_s, entry.values)

    def metrics(self) -> list[str]:
        """Return the names of all metrics, in the order of their first rows. Reads all rows."""
        names: dict[str, None] = {}
        for row in self.rows():
            names.update(dict.fromkeys(row.values))
        return list(names)

    def last_row(self, metric: str) -> RunRow | None:
        """Return the newest row that has `metric`, None where none has. Reads from the end.

        Raises:
            OSError: a segment cannot be read.
        """
        spelled = orjson.dumps(metric)
        for path in reversed(self.segments):
            for line in lines_backwards(path):
                if spelled not in line:
                    continue
                entry = entry_of(line)
                if isinstance(entry, Row) and metric in entry.values:
                    return RunRow.of(path, entry)
        return None


@contextmanager
def readable(directory: Path) -> Iterator[None]:
    """Read a run in the block: that it cannot be read is an error that names the run.

    Raises:
        RunUnreadableError: what is read raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise RunUnreadableError(f"run {directory} cannot be read: {error}") from error


def _started_s(header: Header | None, path: Path) -> float:
    return header.time_s if header is not None and header.time_s else path.stat().st_mtime


def list_runs(base: Path | None = None) -> list[LocalRun]:
    """Return the runs under `base` (the parent of `wandb/`; None: WANDB_DIR, else here).

    The one that was begun or resumed last comes last.

    Raises:
        OSError: a directory or segment cannot be read.
    """
    found = [LocalRun(path) for path in run_directories(base)]
    return sorted(found, key=lambda run: (run.resumed_s, run.run_id))


def run_directories(base: Path | None = None) -> list[Path]:
    """Return where the runs under `base` lie, in no order; see `list_runs`.

    Raises:
        OSError: a directory cannot be read.
    """
    return _run_directories(_parent(base))


def candidate_directories(base: Path | None = None) -> list[Path]:
    """Return the directories under `base` that may hold a run; none is looked into.

    Raises:
        OSError: the directory of runs cannot be read.
    """
    parent = _parent(base)
    return [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []


def find_run(text: str, base: Path | None = None) -> LocalRun:
    """Return the run that `text` means.

    Args:
        text: a run's id, the beginning of one id only, the path of a run's directory, wherever it
            was copied to, or "latest", the run that was begun or resumed last.
        base: the parent of `wandb/`; None: WANDB_DIR, else the working directory.

    Raises:
        RunNotFoundError: there is no such run, or more than one.
        OSError: a directory or segment cannot be read.
    """
    parent = _parent(base)
    for path in (parent / text, Path(text)):
        if text and segments(path):
            return LocalRun(path)
    if text == "latest":
        if runs := list_runs(base):
            return runs[-1]
        raise RunNotFoundError(f"no runs in {parent}; pass --dir or set WANDB_DIR")
    if text.startswith(GROUP_PREFIX):
        raise RunNotFoundError(f"{text} may be several runs, and one is asked for; name it")
    if "/" in text:
        raise RunNotFoundError(f"{text} is not a run's directory: it holds no segment-*.jsonl")
    names = sorted(p.name for p in _run_directories(parent) if p.name.startswith(text))
    if len(names) == 1:
        return LocalRun(parent / names[0])
    if names:
        named = ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
        found = f"{len(names)} runs begin with {text!r}: {named}"
        raise RunNotFoundError(f"{found}; give more of the id")
    listing = spell_command("runs")
    raise RunNotFoundError(f"no run {text!r} in {parent}; '{listing}' lists what is there")


def find_runs(texts: Iterable[str], base: Path | None = None) -> list[LocalRun]:
    """Return the runs that `texts` mean, in their order; one that is meant again is left out.

    Args:
        texts: what `find_run` takes, or "group:NAME": all runs of that group, as begun.
        base: the parent of `wandb/`; None: WANDB_DIR, else the working directory.

    Raises:
        RunNotFoundError: there is no such run, more than one, or none in such a group.
        OSError: a directory or segment cannot be read.
    """
    runs = [run for text in texts for run in _runs_of(text, base)]
    return list({run.directory.resolve(): run for run in runs}.values())


def _runs_of(text: str, base: Path | None) -> list[LocalRun]:
    if not text.startswith(GROUP_PREFIX):
        return [find_run(text, base)]
    group = text.removeprefix(GROUP_PREFIX)
    found = [run for run in list_runs(base) if run.group == group]
    if not found:
        groups = sorted({run.group for run in list_runs(base) if run.group is not None})
        named = ", ".join(groups[:_MOST_NAMED]) + (", ..." if len(groups) > _MOST_NAMED else "")
        there = f"there are {named}" if groups else "no run there has one"
        raise RunNotFoundError(f"no run of the group {group!r} in {_parent(base)}; {there}")
    return sorted(found, key=lambda run: (run.started_s, run.run_id))


def _parent(base: Path | None) -> Path:
    return run_directory(resolve_base_dir() if base is None else base, "x").parent


def _run_directories(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if segments(path)] if parent.is_dir() else []
