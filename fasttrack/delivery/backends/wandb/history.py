"""Read a run's rows back: from W&B's server by its client's public API, or from a `.wandb` file.

What the server offers, by its client 0.31: a run's `historyLineCount` (the lines of its history,
which the client itself relies on when it resumes a run), the last `_step`, and the history by
ranges of `_step`. A range is asked for with as many samples as it has steps, so that none is left
out. What the server does with lines that two writers sent for one place only their values show.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from fasttrack.delivery.backends.wandb.client import failures, one_line, public_run
from fasttrack.delivery.backends.wandb.file import (
    HistoryFinder,
    ends_with_exit,
    read_payloads,
)
from fasttrack.delivery.backends.wandb.media import identity_of
from fasttrack.delivery.backends.wandb.pages import Pages
from fasttrack.delivery.backends.wandb.steps import fits_alone
from fasttrack.errors import BackendLostError
from fasttrack.journal.media import MediaRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from fasttrack.delivery.contents import Held
    from fasttrack.journal.rows import Number, Row

STEP_KEY = "step"
LOGGED_AT = "time/logged_at"
"""Of rows that come late: `run.log` says of them when they came."""
RESERVED = frozenset(("", STEP_KEY, "_step", "_runtime", "_timestamp", "_wandb"))
"""Names that W&B's client uses itself, or drops: no value of such a metric ever arrives."""

_PAGE = 1000  # lines, about; the client's own default
_MOST_SAMPLES = 2**31 - 1
_MOST_PAGES = 10_000
_LONG = 1_000_000  # characters of all names together, from which on each is looked at


class Extent(NamedTuple):
    """How much history a run has on the server."""

    lines: int
    last_step: int
    """The highest `_step`, wherever its line lies: the client's own API reads no further."""


class ServerHistory:
    """What the server shows of one run.

    Threads: one at a time. Every method asks the server, and raises BackendLostError where it does
    not answer.
    """

    def __init__(self, path: str, timeout_s: float = 60.0) -> None:
        """Be ready to ask for `entity/project/id`; no request takes longer than `timeout_s`."""
        self.pages = Pages(path)
        """The same, where it can be read so."""
        self._path = path
        self._timeout_s = timeout_s
        self._run: Any = None

    def extent(self) -> Extent:
        """Return how much there is now."""
        try:
            self._run = run = public_run(self._path, self._timeout_s)
            return Extent(int(run.historyLineCount or 0), int(run.lastHistoryStep))
        except failures() as error:
            raise _unreadable(error) from error

    def rows(
        self, first: int, end: int | None = None, *, closely: bool = False
    ) -> Iterator[dict[str, object]]:
        """Yield the lines from one `_step` up to, not including, another (None: to the end).

        Args:
            first: from where on.
            end: up to where.
            closely: whether to ask for few steps at a time, however few lines they have: what
                limits a server may have then makes no difference. And for all lines that they can
                have, where two sessions were open at once and used the same steps: the public API
                asks for one a step.
        """
        extent = self.extent()
        end = extent.last_step + 1 if end is None else min(end, extent.last_step + 1)
        page = min(max(_PAGE, _PAGE * (end - first) // max(1, extent.lines)), _MOST_SAMPLES)
        if closely and (end - first) // _PAGE <= _MOST_PAGES:
            page = _PAGE
        while closely and first < end:
            lines = self.pages.read(first, min(first + page, end), at_least=extent.lines)
            if lines is None:
                break
            yield from lines
            first += page
        try:
            if first < end:
                yield from self._run.scan_history(
                    min_step=first, max_step=end, page_size=page, use_cache=False
                )
        except failures() as error:
            raise _unreadable(error) from error


def _unreadable(error: BaseException) -> BackendLostError:
    return BackendLostError(f"the run's rows cannot be read ({one_line(error)})")


class FileHistory:
    """What the `.wandb` files of an offline run hold, whole records only.

    Threads: one at a time.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        """Be ready to read `files`."""
        self._files = list(files)
        self.ended = False
        """Whether the run has ended in what was read last."""
        self.artifacts = 0
        """How many artifacts were in it."""

    def seems_ended(self) -> bool:
        """Return whether the run's end is the last that was written; reads little."""
        return bool(self._files) and all(map(ends_with_exit, self._files))

    def rows(self) -> Iterator[dict[str, object]]:
        """Yield the history's lines."""
        return (decoded(payload) for payload, _, _ in self.records())

    def records(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield the history's lines as records, and where in each its `HistoryRecord` lies."""
        from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

        self.ended, self.artifacts = False, 0
        for file in self._files:
            finder = HistoryFinder()
            for payload in read_payloads(file):
                if (place := finder.find(payload)) is not None:
                    yield payload, *place
                    continue
                kind = Record.FromString(payload).WhichOneof("record_type")
                self.ended = self.ended or kind == "exit"
                self.artifacts += kind == "artifact"


def decoded(payload: bytes) -> dict[str, object]:
    """Return the line that a record holds."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    line: dict[str, Any] = {}
    for item in Record.FromString(payload).history.item:
        first, *rest = item.nested_key or (item.key,)
        value = _number(item.value_json)
        if not rest:
            line[first] = value
            continue
        # What `run.log` was given as an object, wandb-core takes to pieces; media are flat.
        inner = line.setdefault(first, {})
        if isinstance(inner, dict):
            inner["/".join(rest)] = value
    return line


def _number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return json.loads(text)


def as_held(lines: Iterable[dict[str, object]]) -> Iterator[Held]:
    """Yield lines of ours by the user's step; those of others have none."""
    for line in lines:
        step = line.get(STEP_KEY)
        if isinstance(step, (int, float)):
            yield int(step), as_compared(line)


def as_compared(line: dict[str, object]) -> dict[str, object]:
    """Return a line with what tells its media from others in their place."""
    if dict not in map(type, line.values()):
        return line
    return {name: identity_of(value) for name, value in line.items()}


def taken(values: dict[str, Number]) -> dict[str, Number]:
    """Return what W&B takes of a row's metrics."""
    if RESERVED.isdisjoint(values) and sum(map(len, values)) < _LONG:
        return values
    return {n: value for n, value in values.items() if n not in RESERVED and fits_alone(n)}


def kept(row: Row) -> Held:
    """Return what W&B can be expected to hold of a row."""
    if isinstance(row, MediaRow):
        return row.step, {row.name: row.identity}
    return row.step, taken(row.values)
