"""How a tracker comes to its part in sampling nodes, by which process it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasttrack.context.places import count_nodes, local_rank, node_name
from fasttrack.journal.run_directory import run_directory
from fasttrack.nodes.gathering import Gathering
from fasttrack.nodes.meeting import Announcement, Meeting, proof_of
from fasttrack.nodes.member import Home, Visitor
from fasttrack.nodes.sampling import NodeSampler
from fasttrack.notices import Notices

if TYPE_CHECKING:
    from fasttrack.engine import Engine
    from fasttrack.nodes.member import Member
    from fasttrack.settings import RunSettings

_FLUSH_S = 1.0
_MANY = 15  # nodes, from which on they are sampled less often: the run takes in no more than that


def sample_nodes(settings: RunSettings, engine: Engine | None) -> Member | None:
    """Begin to do this process's part in sampling nodes; None: it has none. Waits for nobody.

    A node is sampled by its first process, by the launcher's numbers; where they are not told, by
    whichever comes first. Where the run is recorded, what all nodes tell is gathered.

    Args:
        settings: the run's. Every process calls this once for each tracker, in the same order.
        engine: records the run; None on other ranks.
    """
    run_id = settings.run_id if engine is None else None
    runs_directory = run_directory(settings.base_dir, "x").parent
    meeting = Meeting(runs_directory, run_id, settings.began_s)
    samples = local_rank(settings.world_size) in (0, None)
    if engine is not None:
        member: Member = _home(settings, engine, meeting, samples=samples)
    elif samples:
        member = Visitor(meeting, node_name(), settings.options.nodes_interval_s, Notices())
    else:
        return None
    member.start()
    return member


def _home(settings: RunSettings, engine: Engine, meeting: Meeting, *, samples: bool) -> Home:
    expected = count_nodes(settings.world_size)
    interval_s = settings.options.nodes_interval_s * max(1.0, (expected or 1) / _MANY)
    told = Announcement(
        segment=str(engine.segment),
        proof=proof_of(engine.segment) or "",
        interval_s=interval_s,
        time_s=settings.began_s,
    )
    gathering = Gathering(engine.segment, interval_s, expected, engine.notices)

    def gather(last: bool) -> None:
        if last:
            engine.flush(_FLUSH_S)  # which may bring the first row
        # At no step yet, what nodes tell stays in their files.
        if engine.running and engine.stats().rows_written:
            engine.beside.extend(gathering.rows(last=last))

    return Home(
        meeting,
        told,
        engine.notices,
        gather,
        sampler=(lambda: NodeSampler(node_name())) if samples else None,
        alone=settings.world_size < 2,
    )
