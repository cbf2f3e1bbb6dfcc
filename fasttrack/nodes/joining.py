"""How a tracker comes to its part in sampling nodes, by which process it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasttrack.journal.run_directory import run_directory
from fasttrack.nodes.gathering import Gathering
from fasttrack.nodes.meeting import Announcement, Meeting, proof_of
from fasttrack.nodes.member import Home, Visitor
from fasttrack.nodes.places import count_nodes, local_rank, node_name
from fasttrack.nodes.sampling import NodeSampler
from fasttrack.notices import Notices

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fasttrack.settings import RunSettings

_MANY = 15  # nodes, from which on they are sampled less often: the run takes in no more than that


def _meeting_of(settings: RunSettings, run_id: str | None) -> Meeting:
    return Meeting(run_directory(settings.base_dir, "x").parent, run_id, settings.began_s)


def visit(settings: RunSettings) -> Visitor | None:
    """Begin to sample this node for a run that another process records; None: not this process.

    It is the first of the node, by the launcher's numbers; where they are not told, whichever comes
    first. Waits for nobody. Every process calls this, or makes `NodeRows`, once for each tracker.
    """
    meeting = _meeting_of(settings, settings.run_id)
    if local_rank(settings.world_size) not in (0, None):
        return None
    visitor = Visitor(meeting, node_name(), settings.options.nodes_interval_s, Notices())
    visitor.start()
    return visitor


class NodeRows:
    """What all nodes tell of their hardware, where the run is recorded; and this node's sampler.

    Threads: made on the one that makes the tracker; `rows` and `close` on the worker.
    """

    def __init__(self, settings: RunSettings, segment: Path, notices: Notices) -> None:
        """Begin to sample this node, and tell the others of the run. Waits for nobody.

        Args:
            settings: the run's.
            segment: what its attempt writes.
            notices: told what goes wrong.
        """
        expected = count_nodes(settings.world_size)
        interval_s = settings.options.nodes_interval_s * max(1.0, (expected or 1) / _MANY)
        told = Announcement(
            segment=str(segment),
            proof=proof_of(segment) or "",
            interval_s=interval_s,
            time_s=settings.began_s,
        )
        samples = local_rank(settings.world_size) in (0, None)
        self._gathering = Gathering(segment, interval_s, expected, notices)
        self._home = Home(
            _meeting_of(settings, None),
            told,
            notices,
            sampler=(lambda: NodeSampler(node_name())) if samples else None,
            alone=settings.world_size < 2,
        )
        self._home.start()

    def rows(self, *, last: bool) -> Iterator[dict[str, float]]:
        """Yield the rows that are due; after the `last` the sampler ends."""
        yield from self._gathering.rows(last=last)
        if last:
            self._home.close()
