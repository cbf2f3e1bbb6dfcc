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
    names: Collection[str], patterns: Sequence[str], *, whose: str = "the run has"
) -> None:
    """Check that each pattern matches a name.

    Args:
        names: all that there are.
        patterns: what was asked for.
        whose: begins the sentence that says what is missing.

    Raises:
        FasttrackError: one matches none, or there is none; the message names what there is.
    """
    if not names:
        raise FasttrackError(f"{whose} no metrics yet")
    for pattern in patterns:
        if not matching(names, [pattern]):
            there = ", ".join(sorted(names))
            raise FasttrackError(f"{whose} no metric {pattern!r}; there are: {there}")
