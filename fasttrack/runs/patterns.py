"""Metrics by name: patterns such as 'loss/*', as in a shell; the columns that they become."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from fasttrack.errors import FasttrackError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a metric's name is one of `patterns`, or fits one."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def matching(names: Collection[str], patterns: Sequence[str]) -> list[str]:
    """Return the names that match: pattern after pattern, each name once, in alphabetical order."""
    in_order = sorted(names)
    found = [name for pattern in patterns for name in in_order if matches(name, [pattern])]
    return list(dict.fromkeys(found))


def require_matches(
    names: Collection[str], patterns: Sequence[str], *, several_runs: bool = False
) -> None:
    """Check that there are metrics, and that each pattern matches one.

    Args:
        names: all metrics that there are.
        patterns: what was asked for.
        several_runs: whether the names are those of several runs.

    Raises:
        FasttrackError: there is none; the message names those that there are.
    """
    whose, they = ("the runs have", "they have") if several_runs else ("the run has", "it has")
    if not names:
        raise FasttrackError(f"{whose} no metrics yet")
    for pattern in patterns:
        if not matching(names, [pattern]):
            there = ", ".join(sorted(names))
            raise FasttrackError(f"{whose} no metric {pattern!r}; {they}: {there}")


def columns_of(names: Iterable[str], fixed: Iterable[str]) -> dict[str, str]:
    """Return each metric's column in a table that has the columns `fixed` before them.

    One that is called like a column that is there gets "metric/" before its name.
    """
    columns: dict[str, str] = {}
    taken = set(fixed)
    for name in names:
        column = name
        while column in taken:
            column = f"metric/{column}"
        columns[name] = column
        taken.add(column)
    return columns
