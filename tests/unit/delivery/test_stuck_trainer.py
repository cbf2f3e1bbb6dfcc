"""When a trainer counts as unable to die of SIGTERM."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from fasttrack.delivery.stuck_trainer import STUCK_S, wait_until_stuck

TERM = bytes([signal.SIGTERM])
ALRM = bytes([signal.SIGALRM])


class Time:
    """A clock that moves when somebody waits, and does something at a given time."""

    def __init__(self) -> None:
        """Begin at 0."""
        self.now_s = 0.0
        self.at: dict[float, Callable[[], object]] = {}

    def clock(self) -> float:
        """Return the time."""
        return self.now_s

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds
        for due_s in [due_s for due_s in self.at if due_s <= self.now_s]:
            self.at.pop(due_s)()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """What the trainer's handler writes to, and what is read."""
    writing, reading = socket.socketpair()
    for end in (writing, reading):
        end.setblocking(False)
    with writing, reading:
        yield writing, reading


def test_a_trainer_that_does_not_look_at_sigterm_is_stuck(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """Whatever other signals come; what lies there is left for the trainer."""
    time_ = Time()
    ends[0].send(ALRM + TERM)
    time_.at[4.0] = lambda: ends[0].send(ALRM)

    stuck = wait_until_stuck(ends[1], is_running=lambda: True, clock=time_.clock, pause=time_.pause)

    assert stuck
    assert STUCK_S <= time_.now_s < STUCK_S + 1
    assert ends[1].recv(10) == ALRM + TERM + ALRM


def test_a_trainer_that_takes_sigterm_out_is_not_stuck(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """A second SIGTERM is a new one; when the trainer is gone, there is nothing to do."""
    time_ = Time()
    ends[0].send(TERM)

    def take_and_send() -> None:
        ends[1].recv(10)
        ends[0].send(ALRM)

    def send_and_leave() -> None:
        ends[1].recv(10)
        ends[0].close()

    time_.at[STUCK_S - 1] = take_and_send
    time_.at[3 * STUCK_S] = send_and_leave

    assert not wait_until_stuck(
        ends[1], is_running=lambda: True, clock=time_.clock, pause=time_.pause
    )
    assert time_.now_s >= 3 * STUCK_S


def test_a_trainer_that_is_stopped_is_not_stuck(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """SIGSTOP, a debugger: the time does not count."""
    time_ = Time()
    ends[0].send(TERM)

    stuck = wait_until_stuck(
        ends[1],
        is_running=lambda: not 5 < time_.now_s < 60,
        clock=time_.clock,
        pause=time_.pause,
    )

    assert stuck
    assert time_.now_s >= 60 + STUCK_S


def test_waiting_costs_nothing_while_no_signal_comes(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """It blocks until something is written."""
    began_s = time.process_time()

    threading.Timer(0.3, ends[0].close).start()

    assert not wait_until_stuck(ends[1], is_running=lambda: True)
    assert time.process_time() - began_s < 0.2
