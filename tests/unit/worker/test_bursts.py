"""When the worker gives up the GIL, on a clock that is handed in."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import pytest

from fasttrack.worker.bursts import Bursts

HANG_GUARD_S = 10.0


class Setup:
    """Bursts on a clock that stands still until it is set."""

    def __init__(self) -> None:
        """Begin a round at one second."""
        self.now_s = 1.0
        self.rests: list[float] = []
        self.bursts = Bursts(lambda: self.now_s, self.rest)
        self.bursts.begin()

    def rest(self, seconds: float) -> None:
        """Take a second, whatever is asked for."""
        self.rests.append(seconds)
        self.now_s += 1.0


@pytest.fixture
def setup() -> Setup:
    """Return bursts at the beginning of a round."""
    return Setup()


def test_a_burst_lasts_100_us(setup: Setup) -> None:
    """Not a moment before, and the next one counts from the end of the rest."""
    setup.now_s += 99e-6
    setup.bursts.rest_if_due()
    early = len(setup.rests)
    setup.now_s += 2e-6
    setup.bursts.rest_if_due()

    assert (early, setup.rests) == (0, [500e-6])
    assert setup.bursts.end_s == pytest.approx(setup.now_s + 100e-6)


def test_far_behind_bursts_are_1_ms_until_the_round_ends(setup: Setup) -> None:
    """The burst that runs ends as it was begun."""
    setup.bursts.lengthen()
    running_s = setup.bursts.end_s
    setup.bursts.rest()
    lengthened_s = setup.bursts.end_s - setup.now_s
    setup.bursts.begin()

    assert running_s == pytest.approx(1.0 + 100e-6)
    assert lengthened_s == pytest.approx(1e-3)
    assert setup.bursts.end_s - setup.now_s == pytest.approx(100e-6)
    assert setup.rests == [0.0]


def test_where_somebody_waits_there_is_no_pause(setup: Setup) -> None:
    """The GIL is given up all the same, in this round; in the next one as before."""
    setup.bursts.begin(hurried=True)
    setup.bursts.rest()
    setup.bursts.begin()
    setup.bursts.rest()

    assert setup.rests == [0.0, 500e-6]


@pytest.fixture
def no_switches() -> Iterator[None]:
    """Have no thread of this process lose the GIL that does not give it up."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)
    yield
    sys.setswitchinterval(interval_s)


def test_a_thread_that_waits_for_the_gil_gets_it(no_switches: None) -> None:
    """Also by a rest that lasts no time at all."""
    gate, ran = threading.Event(), threading.Event()

    def run() -> None:
        gate.wait(HANG_GUARD_S)
        ran.set()

    waiting = threading.Thread(target=run)
    waiting.start()
    bursts = Bursts()
    bursts.begin(hurried=True)
    gate.set()
    deadline = time.monotonic() + HANG_GUARD_S
    while not ran.is_set() and time.monotonic() < deadline:
        bursts.rest_if_due()
    ran_meanwhile = ran.is_set()
    waiting.join()

    assert ran_meanwhile
