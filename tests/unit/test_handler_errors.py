"""Which exceptions a signal handler raised, whatever its form, and which are of our own calls."""

from __future__ import annotations

import functools
import gc
import signal
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from fasttrack.handler_errors import is_handlers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class PreemptedError(Exception):
    """What the handlers here raise."""


def _raise() -> None:
    raise PreemptedError


def plain(signum: int, frame: Any) -> None:
    """The form that the documentation shows."""
    _raise()


def anything(*given: Any) -> None:
    """Names none of its arguments."""
    _raise()


def forgetful(signum: int, frame: Any) -> None:
    """Does away with its argument."""
    del frame
    _raise()


def once(signum: int, frame: Any) -> None:
    """Is no handler any more when it raises."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    _raise()


def with_more(extra: str, signum: int, frame: Any) -> None:
    """For functools.partial."""
    _raise()


class Handlers:
    """Methods and callable objects."""

    def method(self, signum: int, frame: Any) -> None:
        """A bound method."""
        _raise()

    def __call__(self, signum: int, frame: Any) -> None:
        """The object itself."""
        _raise()


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize(
    "handler",
    [
        plain,
        anything,
        forgetful,
        once,
        functools.partial(with_more, "x"),
        Handlers().method,
        Handlers(),
        lambda signum, frame: _raise(),
    ],
    ids=["plain", "varargs", "forgetful", "once", "partial", "method", "object", "lambda"],
)
def test_what_a_handler_raises_is_recognised(handler: Callable[..., Any]) -> None:
    """Every form that Python takes as a handler."""
    signal.signal(signal.SIGUSR1, handler)

    with pytest.raises(PreemptedError) as caught:
        signal.raise_signal(signal.SIGUSR1)

    assert is_handlers(caught.value)


def test_what_a_value_of_the_users_raises_is_not_a_handlers() -> None:
    """A `__float__` that fails is refused as before, also while handlers are installed."""
    signal.signal(signal.SIGUSR1, plain)

    class Value:
        def __float__(self) -> float:
            raise PreemptedError

    with pytest.raises(PreemptedError) as caught:
        float(Value())

    assert not is_handlers(caught.value)
    assert not is_handlers(PreemptedError("never raised"))


def test_a_call_within_a_handler_may_fail_by_itself() -> None:
    """An error that one of our calls below a handler meets and catches there is its own."""
    seen: list[bool] = []

    def log(value: Any) -> None:
        try:
            float(value)
        except ValueError as error:
            seen.append(is_handlers(error))

    def handler(signum: int, frame: Any) -> None:
        log("no number")

    signal.signal(signal.SIGUSR1, handler)
    signal.raise_signal(signal.SIGUSR1)

    assert seen == [False]


def test_asking_keeps_nothing_alive() -> None:
    """A frame keeps the copy of its locals that was asked for: it held tensors in a cycle."""

    class Held:
        """Something large."""

    def fails(held: Held) -> None:
        answers = []
        try:
            raise ValueError
        except ValueError as error:
            answers.append(is_handlers(error))
        assert answers == [False]

    held = Held()
    kept = weakref.ref(held)
    gc.disable()
    try:
        fails(held)
        del held

        assert kept() is None
    finally:
        gc.enable()
