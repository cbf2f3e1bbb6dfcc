"""Signals at the worst moments: in native code, inside our calls, around a fork; bad arguments."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.runs import (
    HANG_GUARD_S,
    journal_rows,
    make_tracker,
    offline_dirs,
    run_dir,
    run_script,
    start_script,
    wait_until,
    wandb_rows,
)
from support.trackers import Trackers, journal_only

from fasttrack.journal.entries import Finish
from fasttrack.journal.reader import read_finish
from fasttrack.journal.run_directory import segments

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def make() -> Iterator[Trackers]:
    """What makes trackers that keep their journal only; they are finished afterwards."""
    trackers = Trackers()
    yield trackers
    trackers.finish()


def finish_of(base: Path, run_id: str | None) -> Finish | None:
    """Return how the last attempt of a run ended."""
    return read_finish(segments(run_dir(base, run_id))[-1])


def waits_at(pid: int) -> int | None:
    """Return the address at which a process's main thread waits in the kernel; None: at none."""
    _, *arguments = Path(f"/proc/{pid}/syscall").read_text().split()
    return int(arguments[0], 16) if arguments else None


# --- SIGTERM in native code -----------------------------------------------------------------------

STUCK = """
import ctypes
from support.runs import make_tracker
tracker = make_tracker(resume_id="one")
tracker.log_metrics({{"a": 1}}, step=0)
tracker.flush()
mutex = (ctypes.c_long * 8)()
lock = ctypes.{library}(None).pthread_mutex_lock
lock(mutex)
print(ctypes.addressof(mutex), flush=True)
lock(mutex)  # for ever
"""


@pytest.mark.parametrize(
    ("library", "died_of"),
    [("CDLL", signal.SIGTERM), ("PyDLL", signal.SIGKILL)],
    ids=["without the lock", "with the lock"],
)
def test_sigterm_ends_a_process_that_is_stuck_in_native_code(
    tmp_path: Path, library: str, died_of: int
) -> None:
    """A hung collective: no Python code runs on the main thread, or none at all."""
    process = start_script(STUCK.format(library=library))
    assert process.stdout is not None
    mutex = int(process.stdout.readline())
    wait_until(lambda: waits_at(process.pid) == mutex)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=HANG_GUARD_S)

    assert process.returncode == -died_of
    assert len(journal_rows(tmp_path, "one")) == 1
    if died_of == signal.SIGTERM:
        finish = finish_of(tmp_path, "one")
        assert finish is not None
        assert (finish.preempting, finish.exit_code) == (True, 143)


def test_sigterm_waits_for_nobody_that_hangs_at_the_end(tmp_path: Path) -> None:
    """The disk, or a handler that interrupted a lock's owner: it dies in bounded time."""
    process = start_script(
        """
        import threading
        from support.runs import make_tracker
        tracker = make_tracker(resume_id="one")
        life = tracker._engine._life
        life._close_segment = lambda *given: threading.Event().wait()
        print("ready", flush=True)
        threading.Event().wait()
        """
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=HANG_GUARD_S)

    assert process.returncode == -signal.SIGTERM


def test_sigterm_ends_a_process_whose_runs_cannot_be_ended(tmp_path: Path) -> None:
    """A disk that fails at `close`: the process dies, and the next run is marked all the same."""
    process = start_script(
        """
        import threading
        from support.runs import make_tracker
        first = make_tracker(resume_id="one")
        second = make_tracker(resume_id="two")

        def fail(*given):
            raise OSError(5, "Input/output error")

        first._engine._life._close_segment = fail
        print("ready", flush=True)
        threading.Event().wait()
        """
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=HANG_GUARD_S)

    assert process.returncode == -signal.SIGTERM
    finish = finish_of(tmp_path, "two")
    assert finish is not None
    assert finish.preempting


def test_sigterm_of_a_forked_child_is_not_the_parents(tmp_path: Path) -> None:
    """Children inherit what the parent listens to; theirs must not end it, at any moment."""
    result = run_script(
        """
        import os, signal, time
        from support.runs import make_tracker
        tracker = make_tracker(resume_id="one")
        for step in range(100):
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            os.kill(child, signal.SIGTERM)
            assert os.waitpid(child, 0)[1] == signal.SIGTERM
            tracker.log_metrics({"a": step}, step=step)
        time.sleep(2)  # longer than the main thread gets to come
        tracker.finish()
        """
    )

    assert len(journal_rows(tmp_path, "one")) == 100, result.stderr
    finish = finish_of(tmp_path, "one")
    assert finish is not None
    assert (finish.exit_code, finish.preempting) == (0, False)


def test_a_wakeup_descriptor_of_the_users_stays(make: Trackers) -> None:
    """asyncio's, for one; ours goes with the last run, and leaves no descriptor behind."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    assert signal.set_wakeup_fd(writing) == -1
    make().finish()
    assert signal.set_wakeup_fd(-1) == writing
    os.close(reading)
    os.close(writing)
    before = set(os.listdir("/proc/self/fd"))

    tracker = make()
    assert signal.set_wakeup_fd(-1) != -1
    tracker.finish()

    wait_until(lambda: set(os.listdir("/proc/self/fd")) <= before)
    assert "fasttrack-sigterm" not in {thread.name for thread in threading.enumerate()}


# --- exceptions of handlers -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        "tracker.log_metrics({'a': loss, 'b': {'c': 1.0}}, step=step)",
        "tracker.log_training_step(loss, step, 8, optimizer=optimizer, model=model)",
        "tracker.flush(0.001)",
        "tracker.stats()",
        "tracker.update_config({'a': {'b': step}})",
        "tracker.log_config({'a': step})",
        "tracker.log_checkpoint('nowhere', force=True)",
        "print('x', end='')",
        "repr(tracker), tracker.get_run_url(), copy.deepcopy(tracker)",
    ],
)
def test_what_a_signal_handler_raises_inside_a_call_reaches_the_script(
    tmp_path: Path, call: str
) -> None:
    """All of them, and the run goes on: nothing is torn, nothing is left locked."""
    result = run_script(
        f"""
        import copy, random, signal, sys, time
        import torch
        from support.runs import make_tracker
        from support.trackers import journal_only
        class Preempted(TimeoutError, RuntimeError, TypeError): pass
        def handler(*_): raise Preempted("stop now")
        signal.signal(signal.SIGALRM, handler)
        tracker = make_tracker(resume_id="one", options=journal_only(console=True))
        model = torch.nn.Linear(8, 8)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        loss = model(torch.ones(8)).sum()
        loss.backward()
        loss = loss.detach()
        step = 0
        {call}
        seen = 0
        for _ in range(200):
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0002, 0.003))
                deadline = time.monotonic() + 5
                while time.monotonic() < deadline:
                    step += 1
                    {call}
            except Preempted:
                seen += 1
        tracker.log_metrics({{"last": 1}}, step=step)
        tracker.finish()
        sys.stdout.flush()
        print()
        print(seen, tracker.stats().failed_calls if "nowhere" not in {call!r} else 0)
        """
    )

    assert result.stdout.splitlines()[-1] == "200 0", result.stderr
    assert "last" in journal_rows(tmp_path, "one")[-1].values
    assert finish_of(tmp_path, "one") is not None


def test_a_finish_that_a_handler_interrupts_is_done_by_the_next(tmp_path: Path) -> None:
    """At whatever moment it comes: the exception passes, the run is whole after the second call."""
    result = run_script(
        """
        import random, signal
        from support.runs import make_tracker
        from support.trackers import journal_only
        class Preempted(TimeoutError, RuntimeError, TypeError): pass
        def handler(*_): raise Preempted("stop now")
        signal.signal(signal.SIGALRM, handler)
        interrupted = 0
        for number in range(40):
            tracker = make_tracker(resume_id=f"r{number}", options=journal_only())
            tracker.log_metrics({"a": number}, step=number)
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0002 * (number + 1))
                tracker.finish()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Preempted:
                interrupted += 1
            tracker.finish()
            assert not tracker.is_active()
        print(interrupted)
        """
    )

    assert int(result.stdout.splitlines()[-1]) > 0
    for number in range(40):
        assert len(journal_rows(tmp_path, f"r{number}")) == 1
        finish = finish_of(tmp_path, f"r{number}")
        assert finish is not None
        assert finish.exit_code == 0


# --- arguments, threads, files --------------------------------------------------------------------


class Awkward:
    """What raises whatever is done with it."""

    def __index__(self) -> int:
        """Raise."""
        raise RuntimeError("no index")

    def __float__(self) -> float:
        """Raise."""
        raise RuntimeError("no float")

    def __repr__(self) -> str:
        """Raise."""
        raise RuntimeError("no repr")


@pytest.mark.parametrize(
    ("exit_code", "recorded"),
    [(10**30, 1), (-(10**30), 1), ("x", 1), (float("nan"), 1), (True, 1), (3, 3), (Awkward(), 1)],
    ids=["huge", "least", "text", "nan", "true", "three", "awkward"],
)
def test_finish_takes_any_exit_code(
    make: Trackers, tmp_path: Path, exit_code: Any, recorded: int
) -> None:
    """The run is finished, and as failed where the code is none."""
    tracker = make()
    tracker.log_metrics({"a": 1}, step=0)
    tracker.finish(exit_code, preempting=Awkward())  # type: ignore[arg-type]

    finish = finish_of(tmp_path, tracker.get_run_id())
    assert finish is not None
    assert (finish.exit_code, finish.preempting) == (recorded, True)
    assert len(journal_rows(tmp_path, tracker.get_run_id())) == 1


@pytest.mark.parametrize(
    "timeout_s", ["x", "5", None, float("nan"), 10**400, -1, [], Awkward(), float("inf")]
)
def test_flush_takes_any_time(make: Trackers, timeout_s: Any) -> None:
    """What is no number is said, and the default is taken."""
    tracker = make()
    tracker.log_metrics({"a": 1}, step=0)

    assert tracker.flush(timeout_s) is (timeout_s != -1)
    tracker.finish()
    assert tracker.flush(timeout_s) is True


def test_every_method_answers_after_finish_in_a_child_and_in_a_handler(tmp_path: Path) -> None:
    """Whatever it is given; nothing raises, nothing hangs."""
    run_script(
        """
        import os, signal, threading
        from support.runs import make_tracker
        from support.trackers import journal_only
        def ask():
            for given in (None, "x", float("nan"), -1, object(), 10**30):
                tracker.flush(given)
                tracker.log_metrics(given, given)
                tracker.log_training_step(given, given, given)
                tracker.update_config(given)
                tracker.log_config(given)
                tracker.log_checkpoint(given, given, given)
            with tracker.audit():
                pass
            tracker.stats(), tracker.get_run_id(), tracker.get_run_url(), tracker.get_run_dir()
            tracker.get_run_name(), tracker.is_active(), tracker.is_offline(), repr(tracker)
            tracker._repr_html_()
        tracker = make_tracker(options=journal_only())
        signal.signal(signal.SIGUSR1, lambda *_: ask())
        ask()
        signal.raise_signal(signal.SIGUSR1)
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        child = os.fork()
        if not child:
            ask()
            tracker.finish(object())
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        tracker.finish(object())
        tracker.finish(object())
        ask()
        """,
        warnings="ignore",  # of forking with threads
    )


def test_finish_from_several_threads_at_once_is_one(tmp_path: Path) -> None:
    """Each returns when the run is finished, wherever the first of them is."""
    tracker = make_tracker()
    tracker.log_metrics({"a": 1}, step=0)
    states: list[tuple[bool, int]] = []

    def finish() -> None:
        tracker.finish(3)
        states.append((tracker.is_active(), len(wandb_rows(offline_dirs(tmp_path)[0]))))

    threads = [threading.Thread(target=finish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_GUARD_S)

    assert states == [(False, 1)] * 4


@pytest.mark.parametrize("waits", ["finish", "exit"])
@pytest.mark.parametrize("backends", [None, ("none",)], ids=["wandb", "none"])
def test_finish_with_a_deleted_journal_raises_nothing_and_says_so(
    make: Trackers, capfd: pytest.CaptureFixture[str], backends: Any, waits: Any
) -> None:
    """Somebody cleaned up too early; no descriptor of the user's is touched."""
    before = set(os.listdir("/proc/self/fd"))
    options = journal_only(backends=backends, wait_for_delivery=waits, finish_timeout_s=3600.0)
    tracker = make(options=options)
    tracker.log_metrics({"a": 1}, step=0)
    tracker.flush()
    directory = tracker.get_run_dir()
    assert directory is not None
    shutil.rmtree(directory)

    tracker.finish()

    said = capfd.readouterr().err
    assert f"the journal is lost: {directory} was deleted" in said
    assert "goes on" not in said
    assert "are safe in" not in said
    assert "nothing is lost" not in said
    assert "to deliver" not in said
    wait_until(lambda: set(os.listdir("/proc/self/fd")) <= before)


# --- waiting for delivery -------------------------------------------------------------------------


LET_GO = "for pid in held: os.kill(pid, signal.SIGCONT)"


def waiting(how: str, rest: str = LET_GO) -> Any:
    """Run a script that finishes three offline runs with `wait_for_delivery=how`, and the rest.

    Unless `finish()` waits for delivery, that stands still meanwhile: a fast one may be done first.
    """
    return run_script(
        f"""
        import glob, os, signal, time
        from fasttrack import ExperimentTracker, Options
        from support.runs import delivery_pid
        held = []
        for number in range(3):
            tracker = ExperimentTracker(
                tags={{}}, required_tags=(), mode="offline", resume_id=f"r{{number}}",
                options=Options(wait_for_delivery={how!r}),
            )
            for step in range(50):
                tracker.log_metrics({{"a": step}}, step=step)
            while {how!r} == "never" and not tracker._engine.delivery.report.opened:
                time.sleep(0.01)  # `finish()` waits for that
            if {how!r} != "finish":
                held.append(delivery_pid(tracker))
                os.kill(held[-1], signal.SIGSTOP)
            tracker.finish()
            print(tracker.get_run_id(), tracker.is_active())
        {rest}
        """
    )


@pytest.mark.parametrize("how", ["auto", "exit"])
def test_offline_the_process_waits_for_all_its_runs_when_it_ends(tmp_path: Path, how: str) -> None:
    """`finish()` says what is so then; at the end each run is proven, and said to be."""
    result = waiting(how)

    for number, directory in enumerate(offline_dirs(tmp_path)):
        assert [row["a"] for row in wandb_rows(directory)] == list(range(50))
        journal = run_dir(tmp_path, f"r{number}")
        lines = result.stderr.splitlines()
        early = f"[ExperimentTracker] 50 rows are safe in {journal}; delivery goes on beside this"
        place = next(i for i, line in enumerate(lines) if line.startswith(early))
        kept = f"[ExperimentTracker] rows kept: 50, in {directory}"
        assert kept in lines[place + 1 :]
    assert len(offline_dirs(tmp_path)) == 3


def test_finish_waits_where_it_is_to() -> None:
    """What W&B's own tools want to read next is whole."""
    result = waiting("finish", "print(len(glob.glob('wandb/offline-run-*/*.wandb')))")

    assert result.stdout.splitlines()[-1] == "3"
    assert "goes on" not in result.stderr
    assert result.stderr.count("rows kept: 50") == 3


def test_delivery_ends_alone_where_nobody_waits(tmp_path: Path) -> None:
    """The process leaves once delivery is up; what it says is no more than that."""
    result = waiting("never")

    assert result.stderr.count("50 rows are safe in") == 3
    for number in range(3):
        proven = run_dir(tmp_path, f"r{number}") / "cursor.json"
        wait_until(lambda path=proven: path.exists() and b'"offline_proof": "' in path.read_bytes())  # type: ignore[misc]
    assert sorted(len(wandb_rows(directory)) for directory in offline_dirs(tmp_path)) == [50] * 3


def test_a_delivery_that_dies_after_finish_is_started_again_at_the_end(tmp_path: Path) -> None:
    """The process looks after it until it leaves."""
    result = waiting("exit", f"os.kill(held.pop(), signal.SIGKILL)\n        {LET_GO}")

    assert (
        sorted(len(wandb_rows(directory)) for directory in offline_dirs(tmp_path))[-3:] == [50] * 3
    )
    assert "not all is delivered" not in result.stderr


def test_many_runs_in_one_process_hold_no_more_than_some_deliveries(tmp_path: Path) -> None:
    """Processes and descriptors do not grow with the number of runs."""
    result = run_script(
        """
        import os
        from fasttrack import ExperimentTracker, process_hooks
        process_hooks._MOST_UNDELIVERED = most_at_once = 2
        most = 0
        for number in range(6):
            tracker = ExperimentTracker(tags={}, required_tags=(), mode="offline")
            tracker.log_metrics({"a": number}, step=0)
            tracker.finish()
            most = max(most, len(process_hooks._undelivered))
        print(most <= most_at_once)
        """
    )

    assert result.stdout.strip() == "True"
    assert len(offline_dirs(tmp_path)) == 6
    assert all(len(wandb_rows(directory)) == 1 for directory in offline_dirs(tmp_path))
