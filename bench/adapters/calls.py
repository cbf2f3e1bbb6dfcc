"""What each call takes where a framework makes it, and what that makes in a step."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.lib.measure import US, percentile

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Taken: TypeAlias = dict[str, list[float]]
    """Seconds of each call, by its name."""

_UNDISTURBED_PERCENT = 10.0


class Line(NamedTuple):
    """What calls cost, in each training that was measured."""

    calls: str
    ours_us: list[float]
    theirs_us: list[float]
    """Of the same trainings."""


def timed(target: Any, *names: str) -> Taken:
    """Have every call of these methods of `target` timed from now on; return what fills up."""
    return {name: _timed(target, name) for name in names}


def _timed(target: Any, name: str) -> list[float]:
    called, clock = getattr(target, name), time.perf_counter
    taken: list[float] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        begin = clock()
        try:
            return called(*args, **kwargs)
        finally:
            taken.append(clock() - begin)

    setattr(target, name, call)
    return taken


def usual_us(seconds: list[float]) -> float:
    """Return the lowest decile, which other processes disturb least."""
    return percentile(seconds, _UNDISTURBED_PERCENT) * US


def in_trainings(
    trainer: str,
    logging: tuple[str, ...],
    train: Callable[[int, bool], tuple[Taken, Taken]],
    *,
    quick: bool,
) -> list[Line]:
    """Return what a step costs that is logged each time, or every tenth.

    Args:
        trainer: its name.
        logging: the calls that it makes only where it logs, first the one that is told what.
        train: trains, given how often it logs, and whether ours is called before theirs; returns
            the calls of ours and of theirs.
        quick: train once only, logging every tenth step.
    """
    lines, told = [], Line(f"of it the call that logs, `{logging[0]}`", [], [])
    for every in (10,) if quick else (1, 10):
        logged = "every step" if every == 1 else f"every {every} steps"
        costs = Line(f"{trainer}, {logged} logged, all of a step's calls", [], [])
        for first in (True,) if quick else (True, False):
            for taken, per_step, call in zip(train(every, first), costs[1:], told[1:], strict=True):
                per_step.append(_step_us(taken, logging, every))
                call.append(usual_us(taken[logging[0]]))
        lines.append(costs)
    return [*lines, told]


def _step_us(taken: Taken, logging: tuple[str, ...], every: int) -> float:
    """Return the sum of a step's calls; a step that is logged is not like the others."""
    return sum(
        usual_us(seconds) / every
        if name in logging
        else statistics.mean(usual_us(seconds[step::every]) for step in range(every))
        for name, seconds in taken.items()
    )
