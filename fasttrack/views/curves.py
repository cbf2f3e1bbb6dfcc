"""Runs' metrics as lines: long runs are read as columns where pyarrow is installed, else rows."""

from __future__ import annotations

import os
from array import array
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from fasttrack.runs.kept_curves import key_of, load_curves, save_curves
from fasttrack.runs.local import readable
from fasttrack.runs.patterns import matches
from fasttrack.views.series import Series

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fasttrack.runs.local import LocalRun

_MOST_THREADS = 4
_WORTH_IT_BYTES = 8 * 2**20  # of journals; to read less takes less time than to load pyarrow
_FEW_RUNS = 8
_PLACES_OF_FEW, _PLACES_OF_MANY = 1_600, 800  # along the steps; among many lines less is seen


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
    if find_spec("pyarrow") is None or sum(map(_size_bytes, runs)) < _WORTH_IT_BYTES:
        return [_read_rows(run, wanted, places) for run in runs]
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads, "fasttrack-curves") as pool:
        inner = threads if len(runs) == 1 else 1

        def read(run: LocalRun) -> dict[str, Series]:
            with readable(run.directory):
                key = key_of(run, places, list(patterns))
            if key is not None and (kept := load_curves(key)) is not None:
                return {name: Series.of_points(*points) for name, points in kept.items()}
            curves = _read_columns(run, wanted, places, inner)
            if key is not None and not run.bad_lines:
                save_curves(key, {name: (one.steps, one.values) for name, one in curves.items()})
            return curves

        return list(pool.map(read, runs))


def _size_bytes(run: LocalRun) -> int:
    with readable(run.directory):
        return sum(path.stat().st_size for path in run.segments)


def _read_rows(run: LocalRun, is_wanted: Callable[[str], bool], places: int) -> dict[str, Series]:
    points: dict[str, tuple[array[float], array[float]]] = {}
    with readable(run.directory):
        for row in run.rows():
            for name, value in row.values.items():
                if is_wanted(name):
                    steps, values = points.setdefault(name, (array("d"), array("d")))
                    steps.append(row.step)
                    values.append(value)
    return {
        name: Series.of(np.array(steps), np.array(values), places=places)
        for name, (steps, values) in points.items()
    }


def _read_columns(
    run: LocalRun, is_wanted: Callable[[str], bool], places: int, threads: int
) -> dict[str, Series]:
    from fasttrack.runs.columns import read_blocks

    pieces: dict[str, list[tuple[Any, Any]]] = {}
    with readable(run.directory):
        for block in read_blocks(run, is_wanted, steps_only=True, threads=threads):
            if block.bad_lines:
                return _read_rows(run, is_wanted, places)  # which names what is damaged
            steps = _doubles(block.step)
            for name, column in block.metrics.items():
                there = steps
                if column.null_count:
                    there = steps[column.is_valid().to_numpy(zero_copy_only=False)]
                    column = column.drop_null()
                pieces.setdefault(name, []).append((there, _doubles(column)))
    return {
        name: Series.of(*(np.concatenate(each) for each in zip(*found, strict=True)), places=places)
        for name, found in pieces.items()
    }


def _doubles(column: Any) -> Any:
    return column.cast("double", safe=False).to_numpy()
