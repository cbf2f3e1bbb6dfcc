"""Runs' metrics as lines: long runs are read as columns where pyarrow is installed, else rows."""

from __future__ import annotations

import os
from array import array
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fasttrack.runs.kept_curves import key_of, load_curves, save_curves
from fasttrack.runs.local import readable
from fasttrack.runs.patterns import matches
from fasttrack.views.series import Series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fasttrack.runs.local import LocalRun

_MOST_THREADS = 4
_WORTH_IT_BYTES = 8 * 2**20  # of journals; to read less takes less time than to load pyarrow
_FEW_RUNS = 8
_PLACES_OF_FEW, _PLACES_OF_MANY = 1_600, 400  # along the steps; among many lines less is seen


class Points(NamedTuple):
    """A metric as it was logged, in order; arrays of doubles."""

    steps: Any
    values: Any
    times_s: Any = None
    """Unix times; None where they were not asked for."""


@dataclass(slots=True)
class ReadRun:
    """The rows of a run, metric by metric."""

    newest: tuple[int, int] = (0, -1)
    """Attempt and number of the last row that was read."""
    pieces: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    """Name -> what belongs behind one another, as in `Points`."""

    def each(self) -> Iterator[tuple[str, Points]]:
        """Yield each metric, once: they are given up, as the arrays of all need much memory."""
        for name in list(self.pieces):
            pieces = self.pieces.pop(name)
            yield name, Points(*(np.concatenate(each) for each in zip(*pieces, strict=True)))


def read_curves(runs: Sequence[LocalRun], patterns: Sequence[str] = ()) -> list[dict[str, Series]]:
    """Return the lines of each run, those of long ones from the user's cache where they are there.

    Args:
        runs: the runs.
        patterns: of the metrics that are asked for; none: all.

    Raises:
        RunUnreadableError: one of the runs cannot be read.
    """
    places = _PLACES_OF_FEW if len(runs) <= _FEW_RUNS else _PLACES_OF_MANY
    wanted = cache(lambda name: not patterns or matches(name, patterns))

    def series_of(run: LocalRun, threads: int | None) -> dict[str, Series]:
        found = read_points(run, wanted, threads=threads).each()
        return {name: Series.of(one.steps, one.values, places=places) for name, one in found}

    if not columns_pay(runs):
        return [series_of(run, None) for run in runs]
    threads = reading_threads()
    with ThreadPoolExecutor(threads, "fasttrack-curves") as pool:
        inner = threads if len(runs) == 1 else 1

        def read(run: LocalRun) -> dict[str, Series]:
            with readable(run.directory):
                key = key_of(run, places, list(patterns))
            if key is not None and (kept := load_curves(key)) is not None:
                return {name: Series.of_points(*points) for name, points in kept.items()}
            curves = series_of(run, inner)
            if key is not None and not run.bad_lines:
                save_curves(key, {name: (one.steps, one.values) for name, one in curves.items()})
            return curves

        return list(pool.map(read, runs))


def columns_pay(runs: Sequence[LocalRun]) -> bool:
    """Return whether to read `runs` as columns takes less time than row by row.

    Raises:
        RunUnreadableError: one of them cannot be read.
    """
    return find_spec("pyarrow") is not None and sum(map(_size_bytes, runs)) >= _WORTH_IT_BYTES


def reading_threads() -> int:
    """Return how many threads read at a time."""
    return min(_MOST_THREADS, os.cpu_count() or 1)


def _size_bytes(run: LocalRun) -> int:
    with readable(run.directory):
        return sum(path.stat().st_size for path in run.segments)


def read_points(
    run: LocalRun, is_wanted: Callable[[str], bool], *, times: bool = False, threads: int | None
) -> ReadRun:
    """Return the metrics of all rows that `run` has by now.

    Args:
        run: the run.
        is_wanted: of a metric's name, whether it is asked for.
        times: whether the times are asked for; without them `newest` is not found either.
        threads: how many read columns at a time; None: read row by row.

    Raises:
        RunUnreadableError: it cannot be read.
    """
    with readable(run.directory):
        found = None if threads is None else _read_columns(run, is_wanted, times, threads)
        return _read_rows(run, is_wanted, times) if found is None else found


def _read_rows(run: LocalRun, is_wanted: Callable[[str], bool], times: bool) -> ReadRun:
    read = ReadRun()
    found: dict[str, tuple[array[float], ...]] = {}
    for row in run.rows():
        read.newest = (row.attempt, row.seq)
        for name, value in row.values.items():
            if not is_wanted(name):
                continue
            if name not in found:
                found[name] = tuple(array("d") for _ in range(2 + times))
            columns = found[name]
            columns[0].append(row.step)
            columns[1].append(value)
            if times:
                columns[2].append(row.time_s)
    read.pieces = {name: [tuple(map(np.array, columns))] for name, columns in found.items()}
    return read


def _read_columns(
    run: LocalRun, is_wanted: Callable[[str], bool], times: bool, threads: int
) -> ReadRun | None:
    """Read the rows as columns; None: lines are damaged, which to read row by row names."""
    from fasttrack.runs.columns import read_blocks

    read = ReadRun()
    for block in read_blocks(run, is_wanted, steps_only=not times, threads=threads):
        if block.bad_lines:
            return None
        if times and block.count:
            read.newest = (block.attempt, block.seq[-1].as_py())
        steps = _doubles(block.step)
        times_s = _doubles(block.time_s) if times else None
        for name, column in block.metrics.items():
            there: Any = slice(None)
            if column.null_count:
                there = column.is_valid().to_numpy(zero_copy_only=False)
                column = column.drop_null()
            piece: tuple[Any, ...] = (steps[there], _doubles(column))
            if times_s is not None:
                piece = (*piece, times_s[there])
            read.pieces.setdefault(name, []).append(piece)
    return read


def _doubles(column: Any) -> Any:
    return column.cast("double", safe=False).to_numpy()
