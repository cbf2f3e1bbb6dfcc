"""Calls that do not come back: what is done about them, and when nothing is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fasttrack.delivery.children import children_of, kill_children
from fasttrack.delivery.watchdog import Watchdog

HELPER = "sleep"  # a program whose name the system tells


class Watched:
    """A watchdog whose clock is moved by hand, and what it said."""

    def __init__(self) -> None:
        """Begin at 0."""
        self.now_s = 0.0
        self.cuts: list[tuple[str, str]] = []
        self.hangs: list[tuple[str, str]] = []
        self.beats = 0
        self.dog = Watchdog(
            on_cut=lambda *said: self.cuts.append(said),
            on_hang=lambda *said: self.hangs.append(said),
            on_beat=self._beat,
            clock=lambda: self.now_s,
        )

    def _beat(self) -> None:
        self.beats += 1

    def run(self, seconds: int) -> None:
        """Let time pass, a tick a second."""
        for _ in range(seconds):
            self.now_s += 1.0
            self.dog.tick()


@pytest.fixture
def watched() -> Watched:
    """Return one."""
    return Watched()


@pytest.fixture
def helper() -> Iterator[subprocess.Popen[bytes]]:
    """Start a client's helper program, a child of this process."""
    with subprocess.Popen([HELPER, "600"]) as process:
        yield process
        process.kill()


def test_a_call_that_comes_back_in_time_is_let_be(watched: Watched) -> None:
    """However many there are."""
    for _ in range(3):
        with watched.dog.call("wandb", "its log", 10):
            watched.run(9)
    watched.run(100)

    assert (watched.cuts, watched.hangs) == ([], [])


def test_a_call_without_helper_that_does_not_come_back_is_told(watched: Watched) -> None:
    """Whose it is, and what; not before its grace is over."""
    with watched.dog.call("wandb", "opening the run", 10):
        watched.run(24)
        early = list(watched.hangs)
        watched.run(1)

    assert early == []
    assert watched.hangs == [("wandb", "opening the run did not come back")]


def test_a_call_that_hangs_loses_its_helper_first(
    watched: Watched, helper: subprocess.Popen[bytes]
) -> None:
    """Most calls come back then, with an error, and delivery goes on in the same process."""
    with watched.dog.call("wandb", "its finish", 10, HELPER):
        watched.run(10)
        code = helper.wait(timeout=60)

    assert code == -signal.SIGKILL
    assert watched.cuts == [("wandb", "its finish did not come back; sleep is ended")]
    assert watched.hangs == []


def test_a_helper_that_stays_stopped_is_ended(
    watched: Watched, helper: subprocess.Popen[bytes]
) -> None:
    """Long before the call's own time is over: a finish has a minute, and is waited for as long."""
    helper.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, helper.pid, os.WSTOPPED)
    with watched.dog.call("wandb", "its finish", 3600, HELPER):
        watched.run(19)
        assert helper.poll() is None
        watched.run(1)

    assert helper.wait(timeout=60) == -signal.SIGKILL


def test_a_helper_that_goes_on_in_time_is_let_be(
    watched: Watched, helper: subprocess.Popen[bytes]
) -> None:
    """However often it is stopped."""
    with watched.dog.call("wandb", "its finish", 3600, HELPER):
        for _ in range(5):
            helper.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, helper.pid, os.WSTOPPED)
            watched.run(15)
            helper.send_signal(signal.SIGCONT)
            os.waitid(os.P_PID, helper.pid, os.WCONTINUED)
            watched.run(1)

    assert helper.poll() is None
    assert watched.cuts == []


def test_a_call_whose_helper_is_dead_has_ten_seconds_left(
    watched: Watched, helper: subprocess.Popen[bytes]
) -> None:
    """Nobody will ever answer it; its own budget may be an hour."""
    with watched.dog.call("wandb", "its upload", 3600, HELPER):
        watched.run(2)
        helper.kill()
        os.waitid(os.P_PID, helper.pid, os.WEXITED | os.WNOWAIT)  # dead, and not waited for
        watched.run(30)

    assert watched.hangs == [("wandb", "its upload did not come back")]


def test_what_moves_may_take_any_time(watched: Watched) -> None:
    """An upload of a day."""
    with watched.dog.call("wandb", "its upload", 60) as call:
        for _ in range(50):
            watched.run(50)
            call.progress()

    assert watched.hangs == []


def test_what_is_read_is_progress_of_the_call_around_it(watched: Watched) -> None:
    """A million rows take longer to be read back than any call that hangs is waited for."""
    with watched.dog.call("wandb", "its prove", 60):
        with watched.dog.call("wandb", "a call in it", 5):
            pass
        for _ in range(50):
            watched.run(50)
            watched.dog.progress()
        alive = list(watched.hangs)
        watched.run(75)
    watched.dog.progress()  # of nothing

    assert (alive, watched.hangs) == ([], [("wandb", "its prove did not come back")])


def test_what_one_thread_reads_is_no_progress_of_anothers_call(watched: Watched) -> None:
    """An upload hangs while rows are looked for."""
    reader = threading.Thread(target=watched.dog.progress)
    with watched.dog.call("wandb", "its upload", 60):
        watched.run(50)
        reader.start()
        reader.join()
        watched.run(25)

    assert watched.hangs == [("wandb", "its upload did not come back")]


def test_time_in_which_the_process_did_not_run_does_not_count(watched: Watched) -> None:
    """A laptop that slept, SIGSTOP and SIGCONT, a machine that swapped."""
    with watched.dog.call("wandb", "its log", 10):
        for _ in range(4):
            watched.now_s += 3600.0
            watched.dog.tick()

    assert (watched.cuts, watched.hangs) == ([], [])


def test_it_beats_every_five_seconds(watched: Watched) -> None:
    """Whether something hangs or not: that is another matter."""
    watched.run(50)

    assert watched.beats == 10


def test_children_are_told_by_name_and_state(helper: subprocess.Popen[bytes]) -> None:
    """One that has ended and was not waited for is not alive."""
    os.waitid(os.P_PID, helper.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    before = {child.pid: child for child in children_of(os.getpid())}[helper.pid]
    helper.kill()
    os.waitid(os.P_PID, helper.pid, os.WEXITED | os.WNOWAIT)
    after = {child.pid: child for child in children_of(os.getpid())}[helper.pid]

    assert (before.alive, after.alive, after.name) == (True, False, HELPER)


def test_only_children_of_that_name_are_ended(helper: subprocess.Popen[bytes]) -> None:
    """In the thread mode a trainer's DataLoader workers are children, too."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        killed = kill_children(os.getpid(), HELPER)
        assert other.poll() is None
        other.communicate(b"\n", timeout=60)

    assert killed == 1
    assert other.returncode == 0
    assert helper.wait(timeout=60) == -signal.SIGKILL


def test_a_process_that_is_not_there_has_no_children(tmp_path: Path) -> None:
    """Nor is one asked for where the system does not tell."""
    assert children_of(2**22 + 1) == []
    assert kill_children(2**22 + 1) == 0
