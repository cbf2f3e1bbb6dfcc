"""W&B's server as a list of lines, and a run that is delivered to it without a client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.journals import write_attempt

from fasttrack.delivery.backends.base import Place
from fasttrack.delivery.backends.wandb.history import Extent, ServerHistory
from fasttrack.delivery.backends.wandb.notes import Notes
from fasttrack.delivery.backends.wandb.pages import Pages
from fasttrack.delivery.backends.wandb.proof import prove_online
from fasttrack.delivery.backends.wandb.standing import Standing
from fasttrack.journal.cursor import Ledger
from fasttrack.journal.rows import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class KeptPages(Pages):
    """The same list, page by page; what was read is counted."""

    def __init__(self, kept: list[dict[str, object]]) -> None:
        super().__init__("tester/p/r")
        self.kept = kept
        self.asked: list[tuple[int, int]] = []
        """The ranges."""

    def last_step(self) -> int | None:
        """Return the highest step."""
        return max((int(str(line["_step"])) for line in self.kept), default=-1)

    def read(self, first: int, end: int, *, at_least: int = 0) -> list[dict[str, object]] | None:
        """Return the lines between two steps."""
        self.asked.append((first, end))
        return [dict(one) for one in self.kept if first <= int(str(one["_step"])) < end]


class NoPages(KeptPages):
    """As of a client that lacks them."""

    def last_step(self) -> None:
        """Tell nothing."""


class Lines(ServerHistory):
    """A server's history as a list; what was read of it is counted."""

    def __init__(self) -> None:
        super().__init__("tester/p/r")
        self.kept: list[dict[str, object]] = []
        self.read = 0
        self.width = 0  # of all ranges that were asked for
        self.pages = NoPages(self.kept)

    def extent(self) -> Extent:
        """Return how much there is."""
        last = max((int(str(line["_step"])) for line in self.kept), default=-1)
        return Extent(len(self.kept), last)

    def rows(
        self, first: int, end: int | None = None, *, closely: bool = False
    ) -> Iterator[dict[str, object]]:
        """Yield the lines between two steps."""
        last = self.extent().last_step
        self.width += (last if end is None else min(end, last)) - first
        end = last + 1 if end is None else min(end, last + 1)
        for line in self.kept:
            if first <= int(str(line["_step"])) < end:
                self.read += 1
                yield line


class Scene:
    """A run of one segment, its ledger and its server."""

    def __init__(self, base: Path, rows: list[Row]) -> None:
        self.rows = rows
        self.segment = write_attempt(base, "r", *rows)
        self.ledger = Ledger()
        self.notes = Notes()
        self.server = Lines()

    def session(self, progress: Callable[[], None] = lambda: None) -> Standing:
        """Open the run, as a client that was started anew."""
        place = Place(
            run_dir=self.segment.parent,
            ledger=self.ledger,
            save=lambda: None,
            in_trainer=False,
            progress=progress,
        )
        standing = Standing(
            place,
            self.notes,
            history=self.server,
            starting_step=int(str(kept[-1]["_step"])) + 1 if (kept := self.server.kept) else 0,
            wandb_dir=self.segment.parent,
        )
        standing.settle([self.segment], [self.segment])
        standing.begin_segment(self.segment.name)
        return standing

    def deliver(self, standing: Standing, *, losing: frozenset[int] = frozenset()) -> int:
        """Hand over all rows; those numbered in `losing` get lost. Return how many were sent."""
        sent = 0
        for number, row in enumerate(self.rows):
            for placed in standing.place(row):
                sent += 1
                if number not in losing:
                    self.server.kept.append(
                        {**placed.values, "step": row.step, "_step": placed.step}
                    )
        return sent

    def prove(self, standing: Standing) -> str:
        """Prove at once."""
        return prove_online(self.server, standing, alone=True, timeout_s=0.0)


def make_rows(count: int, sign: int = 1) -> list[Row]:
    """Return rows whose values tell them apart."""
    return [Row(seq, seq, 0.0, {"loss": float(sign * seq)}) for seq in range(count)]
