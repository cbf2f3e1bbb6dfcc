"""Latches and bells, with a signal handler that raises at every place of them."""

from __future__ import annotations

import itertools
import math
import threading
from typing import TYPE_CHECKING

import pytest
from support.interrupts import interrupt

from fasttrack import latch as module
from fasttrack.latch import Bell, Latch

if TYPE_CHECKING:
    from collections.abc import Callable

HANG_GUARD_S = 30.0


def run_beside(call: Callable[[], object]) -> None:
    """Call on another thread, which must come back."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(HANG_GUARD_S)
    assert not thread.is_alive()


def test_all_who_wait_for_a_latch_go_on_when_it_is_opened() -> None:
    """And who comes later does not wait."""
    latch = Latch()
    assert not latch.wait(0.01)
    threads = [threading.Thread(target=latch.wait, args=(math.inf,), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    latch.open()
    latch.open()
    for thread in threads:
        thread.join(HANG_GUARD_S)

    assert not any(thread.is_alive() for thread in threads)
    assert latch.wait(0.0)


def test_a_bell_that_was_rung_wakes_the_next_once() -> None:
    """However often it was rung."""
    bell = Bell()
    bell.ring()
    bell.ring()
    run_beside(lambda: bell.wait(10 * HANG_GUARD_S))
    waiting = threading.Thread(target=bell.wait, args=(10 * HANG_GUARD_S,), daemon=True)
    waiting.start()
    assert waiting.is_alive()
    bell.ring()
    waiting.join(HANG_GUARD_S)

    assert not waiting.is_alive()


@pytest.mark.parametrize("opened", [False, True])
def test_an_interrupted_wait_leaves_a_latch_that_opens(opened: bool) -> None:
    """`threading.Event` stays locked: who opens it waits for ever."""
    for place in itertools.count(1):
        latch = Latch()
        if opened:
            latch.open()
        if not interrupt(lambda latch=latch: latch.wait(0.001), place):  # type: ignore[misc]
            break
        run_beside(latch.open)
        assert latch.wait(HANG_GUARD_S)
        run_beside(lambda latch=latch: latch.wait(math.inf))  # type: ignore[misc]
    assert place > 5


def test_an_interrupted_open_is_done_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who waits is forgotten."""
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.01)
    for place in itertools.count(1):
        latch = Latch()
        waiting = threading.Thread(target=latch.wait, args=(math.inf,), daemon=True)
        waiting.start()
        interrupted = interrupt(latch.open, place)
        latch.open()
        waiting.join(HANG_GUARD_S)
        assert not waiting.is_alive()
        if not interrupted:
            break
    assert place > 5


def test_an_interrupted_ring_or_wait_leaves_a_bell_that_rings() -> None:
    """It is rung by handlers, too."""
    for place in itertools.count(1):
        bell = Bell()
        rings = interrupt(bell.ring, place)
        waits = interrupt(lambda bell=bell: bell.wait(0.001), place)  # type: ignore[misc]
        bell.ring()
        run_beside(lambda bell=bell: bell.wait(10 * HANG_GUARD_S))  # type: ignore[misc]
        if not rings and not waits:
            break
    assert place > 5
