"""Choose metrics by name: patterns such as 'loss/*', as in a shell."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from fasttrack.errors import FasttrackError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def matching(names: Collection[str], patterns: Sequence[str]) -> list[str]:
    """Return the names that match: pattern after pattern, each name once, in alphabetical order."""
    in_order = sorted(names)
    found = [name for pattern in patterns for name in in_order if fnmatchcase(name, pattern)]
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
