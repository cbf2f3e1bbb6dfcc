"""Mark what a training step spends its time on: the wait for data, and whatever else is named."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, Any

from fasttrack.hotpath.advice import describe
from fasttrack.hotpath.records import MOST_TICKS, PhaseMark
from fasttrack.hotpath.ticks import shorten

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.hotpath.records import AnyTick
    from fasttrack.quick_calls import QuickCalls

NO_PHASE = nullcontext()
"""What marks nothing, for as many blocks as there are."""
_MOST_NAMES = 32  # each is a metric; f"step {step}" would be one for every step
_LONGEST_NAME = 64  # letters


class Phase:
    """A context manager whose beginnings and ends are noted among the steps. Nothing waits.

    Phases may hold one another and overlap, also those of other threads; what is twice in one of
    the same name counts once. One object serves for all blocks of its name.

    Threads: any.
    """

    __slots__ = ("_begins", "_ends", "_ticks")

    def __init__(self, name: str, ticks: list[AnyTick]) -> None:
        """Prepare; it is told to `ticks`."""
        self._begins, self._ends = PhaseMark(name, 1), PhaseMark(name, -1)
        self._ticks = ticks

    def __enter__(self) -> None:
        """Begin the phase."""
        try:
            self._ticks.append((perf_counter(), self._begins))
        except BaseException:  # a handler's, before the block is entered
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        """End the phase; an exception goes on its way."""
        ticks = self._ticks
        ticks.append((perf_counter(), self._ends))
        if len(ticks) >= MOST_TICKS:
            shorten(ticks)


class Phases:
    """Make the phases of a run; those that there are, the calls find by themselves.

    Threads: any.
    """

    __slots__ = ("_by_name", "_refuse", "_ticks")

    def __init__(self, hot: QuickCalls, refuse: Callable[[str, str], None]) -> None:
        """Begin without one.

        Args:
            hot: the state of the calls.
            refuse: told (call, why) what cannot be a name.
        """
        self._ticks = hot._ticks
        self._by_name = hot._phases
        self._refuse = refuse

    def close(self) -> None:
        """Have each call look first whether the run has ended."""
        self._by_name.clear()

    def make(self, name: Any) -> AbstractContextManager[None]:
        """Return the phase of a new name; where it can be none, what marks nothing."""
        is_text = issubclass(type(name), str)  # an object's own `__class__` may raise
        if not is_text or not 0 < str.__len__(name) <= _LONGEST_NAME:
            self._refuse(
                "phase",
                f"its name must be text of 1 to {_LONGEST_NAME} letters, not {describe(name)}",
            )
            return NO_PHASE
        if len(self._by_name) >= _MOST_NAMES:
            self._refuse(
                "phase",
                f"a run has at most {_MOST_NAMES} phases; give those of all steps the same names",
            )
            return NO_PHASE
        plain = str.__str__(name)
        return self._by_name.setdefault(plain, Phase(plain, self._ticks))
