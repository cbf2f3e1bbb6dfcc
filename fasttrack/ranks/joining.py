"""Which part of the run this process takes where all ranks take one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasttrack.collective.reducing_logger import ReducingLogger
from fasttrack.context.distributed import get_rank

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.engine import Engine
    from fasttrack.hotpath.step_logger import StepLogger
    from fasttrack.notices import Notices
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

        engine = AllRanksEngine(settings, hot, on_fork)
        hot._logger = _reducing(engine.logger, engine.notices, settings)
        return engine, None
    if settings.records:
        from fasttrack.engine import Engine

        return Engine(settings, hot, on_fork), None
    if settings.mode == "disabled" or not several or get_rank() == settings.options.log_rank:
        return None, None
    from fasttrack.ranks.other import OtherRank

    other = OtherRank(settings, hot, on_fork)
    hot._logger = _reducing(other.logger, other.notices, settings)
    return None, other


def _reducing(logger: StepLogger, notices: Notices, settings: RunSettings) -> ReducingLogger:
    """Return what stands before `logger`, as every rank makes its calls."""
    options = settings.options
    return ReducingLogger(
        logger,
        notices,
        log_interval=settings.log_interval,
        norms=options.grad_norm != "off",
        stretches=options.overhead_budget is not None,
    )
