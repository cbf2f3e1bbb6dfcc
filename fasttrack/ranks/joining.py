"""Which part of the run this process takes where all ranks take one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasttrack.context.distributed import get_rank

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.engine import Engine
    from fasttrack.quick_calls import QuickCalls
    from fasttrack.ranks.other import OtherRank
    from fasttrack.settings import RunSettings


def join(
    settings: RunSettings, hot: QuickCalls, on_fork: Callable[[], None]
) -> tuple[Engine | None, OtherRank | None]:
    """Return what records the run, or what takes part on another rank; neither where it is off.

    One rank alone is all ranks: its run is as with "main".

    Args:
        settings: the run's.
        hot: the tracker's calls, which get their logger.
        on_fork: called in a forked child, where the run is the parent's.

    Raises:
        DirectoryError: the run's directory cannot be made or written.
        FasttrackError: the delivery process cannot be started.
    """
    several = settings.world_size > 1
    if settings.records and several:
        from fasttrack.ranks.recording import AllRanksEngine

        return AllRanksEngine(settings, hot, on_fork), None
    if settings.records:
        from fasttrack.engine import Engine

        return Engine(settings, hot, on_fork), None
    if settings.mode == "disabled" or not several or get_rank() == settings.options.log_rank:
        return None, None
    from fasttrack.ranks.other import OtherRank

    return None, OtherRank(settings, hot, on_fork)
