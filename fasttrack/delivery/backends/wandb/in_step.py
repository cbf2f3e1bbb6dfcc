"""Compare a run's journal with what the server shows line by line, both in their order.

Where all is well the server holds just the lines that can be made of the journal once more, at
their `_step`s and in their order: then each is compared whole, and nothing need be known of others.
Where one is not the next one's equal (a row is missing, doubled or changed, another writer's stands
there, or the server shows less than was asked for), `delivery/contents.py` compares all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fasttrack.delivery.backends.wandb.history import LOGGED_AT, STEP_KEY, as_compared
from fasttrack.delivery.contents import canonical

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fasttrack.delivery.backends.wandb.pages import Pages
    from fasttrack.delivery.backends.wandb.standing import Standing

_MOST_LINES, _MOST_VALUES = 5000, 50_000  # that one request asks for, about
_BEFORE = 1000  # steps before the first row: others' lines may stand there
_WIDEST = 10_000_000  # steps in one request


class _Page(NamedTuple):
    """Lines that follow one another, as the journal has them."""

    rows: int
    """That begin in them."""
    lines: list[dict[str, object]]
    last_step: int


def count_in_step(standing: Standing, pages: Pages) -> int | None:
    """Return how many rows the journal has, if the server has the same and no others.

    Args:
        standing: knows the rows, and where a replay puts them.
        pages: what the server shows.

    Returns:
        None where it is not so, or cannot be told from the order of the lines.
    """
    if not standing.is_in_order or (last_step := pages.last_step()) is None:
        return None
    end = last_step + 1
    count, first = 0, standing.base + 1
    for page in _pages(standing):
        if not count:
            first = max(first, int(str(page.lines[0]["_step"])) - _BEFORE)
        if page.last_step >= end or page.last_step - first > _WIDEST:
            return None
        if not _equal(page.lines, pages.read(first, page.last_step + 1)):
            return None
        standing.progress()
        count += page.rows
        first = page.last_step + 1
    if first < end and pages.read(first, end) != []:
        return None
    return count


def _pages(standing: Standing) -> Iterator[_Page]:
    rows = values = 0
    step = -1
    lines: list[dict[str, object]] = []
    for numbered, placed in standing.placements():
        for one in placed:
            if one.step == step:  # of one line, whose metrics all differ
                lines[-1] |= one.values
                continue
            if len(lines) >= _MOST_LINES or values >= _MOST_VALUES:
                yield _Page(rows, lines, step)
                rows, values, lines = 0, 0, []
            step = one.step
            lines.append({**one.values, STEP_KEY: numbered.row.step, "_step": step})
            values += len(lines[-1])
        rows += 1
    if lines:
        yield _Page(rows, lines, step)


def _equal(ours: Sequence[dict[str, object]], theirs: Sequence[dict[str, object]] | None) -> bool:
    return theirs is not None and len(ours) == len(theirs) and all(map(_is_equal, ours, theirs))


def _is_equal(ours: dict[str, object], theirs: dict[str, object]) -> bool:
    """Return whether a line of the server's holds what it should, and else but the client's own."""
    theirs.pop("_runtime", None)
    theirs.pop("_timestamp", None)
    if LOGGED_AT not in ours:
        theirs.pop(LOGGED_AT, None)
    if ours == theirs:
        return True
    theirs = as_compared(theirs)
    return ours.keys() == theirs.keys() and all(
        canonical(value) == canonical(theirs[name]) for name, value in ours.items()
    )
