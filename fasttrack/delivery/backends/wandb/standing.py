"""Where a run stands at W&B: what it has of our rows, which `_step` the next one gets.

Normally the server's last step tells where to go on: `_step`s are the same at every replay, and the
newest row is looked at to see that it is ours. Rows may be missing before it, though, or others'
rows stand behind ours: a disk that was full, another directory in which the run went on, the
user's own `wandb sync`. Then the rows are compared by content, and what is not there is sent behind
all that is, at a new `_step` and with its own `step`. Equal rows of somebody else at the same step
would make no difference to the run.
"""

from __future__ import annotations

import bisect
import functools
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from fasttrack.delivery.backends.wandb.history import RESERVED, as_held, kept, taken
from fasttrack.delivery.backends.wandb.media import size_of
from fasttrack.delivery.backends.wandb.offline_directory import is_synced
from fasttrack.delivery.backends.wandb.steps import StepMapper, parts, size_limit
from fasttrack.delivery.contents import Comparison, Known, compare, numbered_rows, watched
from fasttrack.errors import BackendLostError
from fasttrack.journal.media import MediaRow
from fasttrack.journal.reader import read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from fasttrack.delivery.backends.base import Place
    from fasttrack.delivery.backends.wandb.history import ServerHistory
    from fasttrack.delivery.backends.wandb.notes import Notes
    from fasttrack.delivery.contents import Held, Numbered
    from fasttrack.journal.rows import Names, Number, Row

T = TypeVar("T")

_STRETCH, _STRETCHES = 1000, 20  # of a long run: rows, and how many times, when it is sampled

_JUMP = 10_000_000  # of `_step`: what lies between is not read


class Placed(NamedTuple):
    """A row, or a part of it, and where it is put."""

    step: int
    """The `_step`."""
    row: Row
    part: dict[str, Number] | None = None
    """What of the row; None: all of it. Of media, what tells them from others."""

    @property
    def values(self) -> dict[str, Number]:
        """What is put there."""
        return self.row.values if self.part is None else self.part


def _placed(mapper: StepMapper, row: Row) -> list[Placed]:
    """Return where the parts of a row are put, which mostly is one."""
    if isinstance(row, MediaRow):
        told: dict[str, Any] = {row.name: row.identity}
        return [Placed(mapper.place(row.step, told, size_of(row)), row, told)]
    if row.names is not None and (size_bytes := _whole(row.names)) is not None:
        return [Placed(mapper.place(row.step, row.names.as_set, size_bytes), row)]
    values = taken(row.values)
    cut = [*parts(values)]
    if len(cut) == 1 and len(values) == len(row.values):
        return [Placed(mapper.place(row.step, values), row)]
    return [Placed(mapper.place(row.step, part), row, part) for part in cut]


@functools.lru_cache(256)
def _whole(names: Names) -> int | None:
    """Return the size of a line with these metrics; None where it takes not all of them."""
    nothing: dict[str, Number] = dict.fromkeys(names.in_order, 0)
    fits = len(taken(nothing)) == len(nothing) and len([*parts(nothing)]) == 1
    return size_limit(nothing) if fits else None


class Standing:
    """What one session knows of the rows at W&B.

    Threads: one at a time.
    """

    def __init__(
        self,
        place: Place,
        notes: Notes,
        *,
        history: ServerHistory | None,
        starting_step: int,
        wandb_dir: Path,
    ) -> None:
        """Know nothing yet.

        Args:
            place: where the backend works.
            notes: what it remembers.
            history: what the server shows; None offline, where all pending rows are new.
            starting_step: the first `_step` that the server does not have.
            wandb_dir: where W&B's run directories lie.
        """
        self._ledger = place.ledger
        self._save = place.save
        self.progress = place.progress
        """To be called whenever something was read."""
        self._notes = notes
        self._history = history
        self._starting_step = starting_step
        self._wandb_dir = wandb_dir
        self._mapper = StepMapper(-1)
        self._known = Known()
        self._segment = ""
        self._number = 0
        self._seen: dict[str, int] = {}  # rows of segments that were looked at, where steps tell
        self._ends: dict[Path, int] = {}  # rows of segments that were handed over; more may come
        self._compared: Sequence[Path] = ()
        self._whole = False  # whether `_compared` counts from its first rows, arrived or not
        self.pending: Sequence[Path] = ()
        """The segments that this session is to deliver."""
        self.base = -1
        """The highest `_step` before the first row that is looked for."""
        self.by_content = False
        """Whether rows were looked for by content, so that `_step`s are not those of a replay."""
        self.others_before = 0
        """Values of the run's metrics that were there and are not ours, as far as looked for."""

    # --- what is there --------------------------------------------------------------------------

    def settle(self, segments: Sequence[Path], pending: Sequence[Path]) -> None:
        """Find out what of `pending` is there. See `Session.settle`."""
        self.pending = self._compared = list(pending)
        if not pending:
            self.base = self._starting_step - 1
        elif self._history is None:
            self.base = self._base_step(segments, pending)
        else:
            self._settle_online(self._history, segments, pending)
        self._mapper = StepMapper(self._last_taken() if self.by_content else self.base)
        self._notes.store(self._ledger)

    def _settle_online(
        self, history: ServerHistory, segments: Sequence[Path], pending: Sequence[Path]
    ) -> None:
        doubtful = any(self._is_doubtful(path) for path in pending)
        if doubtful:  # rows of any attempt may be anywhere
            self.base, self._compared, self._whole = -1, list(segments), True
        else:
            self.base = self._base_step(segments, pending)
        newest = self._starting_step - 1
        if newest <= self.base:
            return  # all that the server has was there before us
        self.by_content = doubtful or not self._newest_is_ours(history, newest)
        if self.by_content:
            found = self.compare_with(history)
            self._known = Known(found)
            self.others_before = found.others.total()

    def _last_taken(self) -> int:
        """Return the highest `_step` that is taken.

        Where two sessions were open at once, it is not that of the last line, by which the client
        goes on.
        """
        assert self._history is not None
        return max(self._starting_step - 1, self._history.extent().last_step)

    def _is_doubtful(self, path: Path) -> bool:
        state = self._ledger.segment(path.name)
        if state.recheck:
            return True
        if not state.offline_proof:
            return False
        # Its marker alone proves nothing: `wandb sync` leaves it whatever became of the rows.
        directories = [self._wandb_dir / name for name in self._notes.offline_directories]
        return bool(directories) and any(map(is_synced, directories))

    def _newest_is_ours(self, history: ServerHistory, newest: int) -> bool:
        ours = []
        for numbered, step in self.steps():
            self._seen[numbered.segment.name] = numbered.number + 1
            if step == newest:
                ours.append(numbered)
        if not ours:
            return False
        theirs = list(history.rows(newest, newest + 1))
        if not theirs:
            raise BackendLostError("the server does not show its newest row yet")
        return not compare(lambda: ours, lambda: as_held(theirs), kept=kept).missing

    def _base_step(self, segments: Sequence[Path], pending: Sequence[Path]) -> int:
        """Return the highest `_step` that was taken before the first pending row.

        It is settled once per segment, when a server has been asked before the first of its rows
        was delivered: a resumed run may have gone on in another directory meanwhile.
        """
        first = pending[0]
        steps = self._notes.segment(first.name)
        if steps.base_step is not None:
            return steps.base_step
        position = list(segments).index(first)
        base = self._notes.segment(segments[position - 1].name).last_step if position else -1
        if self._history is not None:
            header = read_header(first)
            arrived = self._ledger.segment(first.name).arrived
            if position or arrived or (header is not None and header.resumed):
                base = max(base, self._starting_step - 1)
            steps.base_step, steps.base_lines = base, self._count_lines(self._history)
            self._notes.store(self._ledger)
            self._save()
        return base

    def _count_lines(self, history: ServerHistory) -> int | None:
        if not self._starting_step:
            return 0
        try:
            return history.extent().lines
        except BackendLostError:
            return None

    @property
    def base_lines(self) -> int | None:
        """How many lines the server had when `base` was settled; None: not known."""
        return self._notes.segment(self.pending[0].name).base_lines if self.pending else None

    # --- ours, and theirs -----------------------------------------------------------------------

    def rows(self) -> Iterator[Numbered]:
        """Yield the rows that must be there once this session has proven them."""

        def first(path: Path) -> int:
            online = self._history is not None and not self._whole
            return self._ledger.segment(path.name).arrived if online else 0

        return self.watched(numbered_rows(self._compared, first, self._ends.get))

    def watched(self, read: Iterable[T]) -> Iterator[T]:
        """Yield what is read, each of which is progress."""
        return watched(read, self.progress)

    @property
    def is_in_order(self) -> bool:
        """Whether the rows that must be there stand where a replay puts them."""
        return not (self.by_content or self._whole)

    def steps(self) -> Iterator[tuple[Numbered, int]]:
        """Yield the same rows with the `_step`s of a replay, that of its last part each."""
        step = self.base
        for numbered, placed in self.placements():
            step = placed[-1].step if placed else step
            yield numbered, step

    def placements(self) -> Iterator[tuple[Numbered, list[Placed]]]:
        """Yield the same rows with where a replay puts them."""
        mapper, segment = StepMapper(self.base), None
        for numbered in self.rows():
            if segment is not numbered.segment:
                mapper.close()
                segment = numbered.segment
            yield numbered, _placed(mapper, numbered.row)

    def compare_with(self, history: ServerHistory, *, sampled: bool = False) -> Comparison:
        """Compare our rows with what the server has of them.

        Args:
            history: what the server has.
            sampled: whether some stretches of a long run will do; else both are read whole.

        Raises:
            BackendLostError: the server does not tell.
        """
        passes = iter((False, True))
        if sampled:
            stretches = self._stretches()
            journal: Callable[[], Iterator[Numbered]] = functools.partial(self._within, stretches)
        else:
            stretches = self._ranges()
            journal = self.rows

        def held() -> Iterator[Held]:
            closely = next(passes)
            for first, end in stretches:
                lines = self.watched(history.rows(first, end, closely=closely))
                yield from as_held(lines)

        found = compare(journal, held, kept=kept)
        if self._whole:
            self._doubt_others(found)
        return found

    def _doubt_others(self, found: Comparison) -> None:
        """Have rows that are missing of segments which were proven be sent by the next session."""
        ours = {path.name for path in self.pending}
        for name in {row.segment for row in found.missing} - ours:
            state = self._ledger.segment(name)
            state.proof, state.arrived, state.recheck = None, 0, True
        found.missing = [row for row in found.missing if row.segment in ours]

    def _ranges(self) -> list[tuple[int, int | None]]:
        """Return where our rows can be: a server is not asked for the void between them."""
        if self.by_content:
            lowest = min((numbered.row.step for numbered in self.rows()), default=0)
            return [(max(self.base + 1, lowest), None)]  # no `_step` is below the user's
        ranges: list[list[int]] = []
        for _, step in self.steps():
            if ranges and step <= ranges[-1][1] + _JUMP:
                ranges[-1][1] = step
            else:
                ranges.append([max(self.base + 1, step - _STRETCH), step])
        ends = [*(last + _STRETCH for _, last in ranges[:-1]), None][: len(ranges)]
        return [(first, end) for (first, _), end in zip(ranges, ends, strict=True)]

    def _stretches(self) -> list[tuple[int, int | None]]:
        """Return ranges of `_step`s, evenly spaced by rows; the last one is the end."""
        spacing = max(_STRETCH, self._mapper.placed // _STRETCHES)
        starts: list[int] = []
        ends: list[int] = []
        number, before = -1, None
        for _, step in self.steps():
            if step != before:
                number, before = number + 1, step
                place = (self._mapper.placed - 1 - number) % spacing
                if place == _STRETCH - 1 or not number:
                    starts.append(step)
                if not place:
                    ends.append(step + 1)
        return list(zip(starts[-len(ends) :], ends, strict=True))

    def _within(self, stretches: list[tuple[int, int | None]]) -> Iterator[Numbered]:
        starts = [first for first, _ in stretches]
        for numbered, step in self.steps():
            place = bisect.bisect_right(starts, step) - 1
            if place >= 0 and step < (stretches[place][1] or step + 1):
                yield numbered

    # --- handing over ---------------------------------------------------------------------------

    def begin_segment(self, name: str) -> None:
        """Go on with the first row of a segment that has not arrived."""
        self.end_segment()
        self._segment = name
        self._number = 0 if self._history is None else self._ledger.segment(name).arrived

    def end_segment(self) -> None:
        """Never merge what follows into the last row."""
        self._mapper.close()
        if self._segment:
            self._notes.segment(self._segment).last_step = self._mapper.last

    def place(self, row: Row) -> list[Placed]:
        """Return what is to be sent of the next row, part by part; [] of none."""
        number, self._number = self._number, self._number + 1
        lacking = self._known.lacking(self._segment, number, row)
        if lacking is None:
            return []
        if number == self._seen.get(self._segment):
            self._mapper.close()  # what the server has is not added to
        placed = _placed(self._mapper, lacking)
        if len(placed) == 1 and placed[0].part is None:
            return placed if placed[0].step >= self._starting_step else []
        self._note_refused(lacking)
        return [one for one in placed if one.step >= self._starting_step]

    def _note_refused(self, row: Row) -> None:
        values = taken(row.values)
        refused = self._ledger.segment(self._segment).refused
        for name in row.values.keys() - values.keys():
            why = "W&B keeps this name to itself" if name in RESERVED else "its name is too long"
            refused.setdefault(name[:80], f"from step {row.step} on: {why}")

    def end(self) -> None:
        """Let nothing count any more that was not handed over by now."""
        self.end_segment()
        self._ends = {path: self._ledger.segment(path.name).rows for path in self.pending}

    @property
    def last_step(self) -> int:
        """The highest `_step` given out, or taken before."""
        return self._mapper.last

    @property
    def lines(self) -> int | None:
        """How many lines the server must have behind `base`; None where that is not known."""
        return None if self.by_content else self._mapper.placed
