"""`should_stop()`: what asks a program to stop, and that it leaves the rest as it was."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import timeit
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.interrupts import interrupt
from support.runs import HANG_GUARD_S, run_script, start_script, wait_until
from support.trackers import Trackers, journal_only

from fasttrack import ConfigurationError, Options
from fasttrack.journal.run_directory import segments, stop_path
from fasttrack.notices import Notices
from fasttrack.preemption.calls import Calls
from fasttrack.preemption.watch import StopWatch


@pytest.fixture
def trackers() -> Iterator[Trackers]:
    """Make trackers that deliver nowhere."""
    made = Trackers()
    yield made
    made.finish()


_TRAIN = """
import os, signal, sys, time
from support.runs import make_tracker
from support.trackers import journal_only

tracker = make_tracker(options=journal_only())
assert not tracker.should_stop()
print("trains", flush=True)
step = 0
while not tracker.should_stop():
    tracker.log_training_step(0.5, step)
    step += 1
    time.sleep(0.001)
print(tracker.stop_reason(), flush=True)
tracker.finish(3, preempting=True)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_signal_asks_to_stop_and_may_come_again_until_the_very_end(name: str) -> None:
    """Slurm sends it twice now and then: the exit code is the program's, not the signal's."""
    number = getattr(signal, name)
    program = start_script(_TRAIN + "sys.stdin.read()\nsys.exit(75)")
    assert program.stdout is not None
    assert program.stdout.readline() == "trains\n"

    program.send_signal(number)
    assert program.stdout.readline() == f"{name}\n"
    program.send_signal(number)
    _, stderr = program.communicate(timeout=HANG_GUARD_S)

    assert program.returncode == 75, stderr
    assert "rows kept" in stderr


def test_signal_that_the_batch_script_ignores_until_then_is_heard() -> None:
    """`trap "" USR1` before `exec python`: it must not kill while Python imports."""
    program = start_script(
        "import signal; signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n" + _TRAIN
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "trains\n"

    program.send_signal(signal.SIGUSR1)
    stdout, stderr = program.communicate(timeout=HANG_GUARD_S)

    assert (program.returncode, stdout) == (0, "SIGUSR1\n"), stderr


def test_handler_of_the_programs_own_is_not_replaced_and_may_pass_the_wish_on() -> None:
    """`request_stop` is for such handlers."""
    result = run_script(
        """
        import os, signal
        from support.runs import make_tracker
        from support.trackers import journal_only

        def mine(number, frame):
            tracker.request_stop("mine")

        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, mine)
        tracker = make_tracker(options=journal_only())
        assert not tracker.should_stop()
        assert signal.getsignal(signal.SIGTERM) is signal.getsignal(signal.SIGUSR1) is mine
        os.kill(os.getpid(), signal.SIGUSR1)
        assert tracker.should_stop() and tracker.should_stop()
        print(tracker.stop_reason())
        tracker.finish()
        assert signal.getsignal(signal.SIGTERM) is signal.getsignal(signal.SIGUSR1) is mine
        """
    )

    assert result.stdout == "mine\n"


def test_program_that_never_asks_dies_of_the_signal_as_before() -> None:
    """Its journal flushed and marked first; and so it is again once the tracker is finished."""
    result = run_script(
        """
        import os, signal
        from support.runs import make_tracker
        from support.trackers import journal_only

        asks = make_tracker(options=journal_only())
        assert not asks.should_stop()
        asks.finish()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
        assert not asks.should_stop()
        asks_not = make_tracker(options=journal_only())
        asks_not.log_metrics({"a": 1}, 0)
        os.kill(os.getpid(), signal.SIGTERM)
        """,
        check=False,
    )

    assert result.returncode == -signal.SIGTERM, result.stderr


def test_forked_child_dies_of_the_signals_and_asks_nobody() -> None:
    """A DataLoader ends its workers so; the handlers that they inherit are for the parent."""
    run_script(
        """
        import os, signal
        from support.runs import make_tracker
        from support.trackers import journal_only

        tracker = make_tracker(options=journal_only())
        assert not tracker.should_stop()
        for number in (signal.SIGTERM, signal.SIGUSR1):
            child = os.fork()
            if child == 0:
                tracker.request_stop()
                assert not tracker.should_stop()
                os.kill(os.getpid(), number)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            assert os.WTERMSIG(status) == number, status
        assert not tracker.should_stop()
        tracker.finish()
        """
    )


def test_off_the_main_thread_signals_are_left_alone_and_that_is_said(
    trackers: Trackers, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python sets handlers on the main thread only."""
    before = signal.getsignal(signal.SIGUSR1)
    tracker = trackers()
    first = threading.Thread(target=tracker.should_stop)
    first.start()
    first.join()

    assert signal.getsignal(signal.SIGUSR1) is before
    assert "the first call was not on the main thread" in capsys.readouterr().err
    tracker.request_stop()
    assert tracker.should_stop()


def test_without_a_thread_to_be_had_signals_are_heard_and_training_goes_on(
    trackers: Trackers, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's limit of processes: the first call raises nothing, and says what it lacks."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    tracker = trackers()
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        assert not tracker.should_stop()
    assert "can't start new thread" in capsys.readouterr().err
    signal.raise_signal(signal.SIGUSR1)

    assert tracker.should_stop()
    assert tracker.stop_reason() == "SIGUSR1"


def test_two_trackers_both_hear_a_signal_and_the_last_gives_it_back() -> None:
    """Ctrl-C, too, where it is asked for: Python's own handler is nobody's."""
    run_script(
        """
        import os, signal
        from support.runs import make_tracker
        from support.trackers import journal_only

        options = journal_only(stop_signals=("SIGINT", "SIGUSR1"))
        for number in (signal.SIGUSR1, signal.SIGINT):
            before = signal.getsignal(number)
            gone, first, second = (make_tracker(options=options) for _ in range(3))
            assert not any(tracker.should_stop() for tracker in (gone, first, second))
            gone.finish()
            if number == signal.SIGUSR1:  # nobody was asked to stop: all is as it was
                first.finish()
                assert signal.getsignal(number) is not before
                second.finish()
                assert signal.getsignal(number) is before
                continue
            os.kill(os.getpid(), number)
            assert [t.should_stop() for t in (gone, first, second)] == [False, True, True]
            assert first.stop_reason() == second.stop_reason() == "SIGINT"
            first.finish()
            second.finish()
        """
    )


@pytest.mark.parametrize("arguments", [{"enabled": False}, {"mode": "disabled"}, {}])
def test_asked_or_not_the_answer_is_a_flag_whether_the_tracker_records_or_not(
    trackers: Trackers, arguments: dict[str, object]
) -> None:
    """The loop's logic must not depend on tracking."""
    tracker = trackers(**arguments)
    tracker.request_stop("too early: nobody listens")
    answers = [tracker.should_stop(), tracker.should_stop()]
    reason = tracker.stop_reason()

    tracker.request_stop("enough of it")
    tracker.request_stop("another reason")

    assert (answers, reason) == ([False, False], None)
    assert tracker.should_stop()
    assert tracker.stop_reason() == "enough of it"


@pytest.mark.parametrize("reason", [None, 3, b"x", "", " \n", "\ud800", "a" * 10_000, object()])
def test_whatever_the_reason_asking_raises_nothing(trackers: Trackers, reason: Any) -> None:
    """It is one line that a store takes."""
    tracker = trackers()
    tracker.should_stop()
    tracker.request_stop(reason)

    told = tracker.stop_reason()
    assert tracker.should_stop()
    assert told is not None
    assert 0 < len(told.encode()) <= 200


def test_the_look_at_the_flag_costs_next_to_nothing(trackers: Trackers) -> None:
    """Tens of nanoseconds; the guard is wide, for machines that do other things meanwhile."""
    tracker = trackers()
    tracker.should_stop()

    seconds = min(timeit.repeat(tracker.should_stop, number=10_000, repeat=5)) / 10_000

    assert seconds < 2e-6


def test_written_stop_file_asks_the_attempt_that_listens(trackers: Trackers) -> None:
    """It is there while the program listens, and gone afterwards."""
    tracker = trackers()
    run_dir = tracker.get_run_dir()
    assert run_dir is not None
    (segment,) = segments(run_dir)
    assert not stop_path(segment).exists()
    assert not tracker.should_stop()
    wait_until(stop_path(segment).exists)

    stop_path(segment).write_text("x")
    wait_until(tracker.should_stop)

    assert tracker.stop_reason() == "command"
    tracker.finish()
    assert not stop_path(segment).exists()


_SQUEUE = """#!/bin/sh
echo "$@" >> {calls}
cat {answer}
"""


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `squeue` that answers what stands in the file returned here."""
    program, answer = tmp_path / "squeue", tmp_path / "answer"
    program.write_text(_SQUEUE.format(calls=tmp_path / "calls", answer=answer))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    return answer


def test_program_is_asked_to_stop_before_its_job_ends(trackers: Trackers, squeue: Path) -> None:
    """For real, with a `squeue` of the test's own: it says that all is nearly over."""
    squeue.write_text("0:00\n")
    tracker = trackers(options=journal_only(stop_before_end_s=5.0))

    wait_until(tracker.should_stop)

    assert tracker.stop_reason() == "time_limit"
    assert (squeue.parent / "calls").read_text().splitlines() == ["-h -j 7 -o %L"] * 2


_RANKS = """
import datetime, json, os, signal, sys, time
import torch
import torch.distributed as dist
from support.runs import make_tracker
from support.trackers import journal_only

rank, port, asked = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group(
    "gloo", init_method="tcp://127.0.0.1:" + port, rank=rank, world_size=3,
    timeout=datetime.timedelta(seconds=100),
)
tracker = make_tracker(options=journal_only(log_rank=1))
calls = 0
while not tracker.should_stop():
    calls += 1
    dist.all_reduce(torch.ones(1))
    time.sleep(0.005 * rank)
    if calls == 20 and asked == str(rank):
        os.kill(os.getpid(), signal.SIGUSR1)
print(json.dumps([calls, tracker.stop_reason(), tracker.is_active()]), flush=True)
tracker.finish(0, preempting=True)
if rank:  # the rank that has the store leaves at once, the others take their time
    time.sleep(0.5)
os._exit(0) if rank == 0 else None
dist.destroy_process_group()
"""


@pytest.mark.parametrize("asked", [0, 2])
def test_ranks_of_a_process_group_stop_after_the_same_step(asked: int) -> None:
    """Only one of them gets the signal; another records; a third keeps the store and is gone."""
    from support.slurm_cluster import free_ports

    (port,) = free_ports(1)
    ranks = [
        start_script(_RANKS, str(rank), str(port), str(asked), warnings=None) for rank in range(3)
    ]
    told = []
    for rank in ranks:
        stdout, stderr = rank.communicate(timeout=HANG_GUARD_S)
        assert rank.returncode == 0, stderr
        assert "cannot agree" not in stderr
        told.append(json.loads(stdout))

    calls = told[0][0]
    assert calls > 20
    assert told == [[calls, "SIGUSR1", rank == 1] for rank in range(3)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"stop_signals": "SIGTERM"},
        {"stop_signals": ("SIGKILL",)},
        {"stop_signals": (15,)},
        {"stop_before_end_s": -1},
        {"stop_before_end_s": "60"},
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    """Before the run."""
    with pytest.raises(ConfigurationError, match=r"Options\.stop_"):
        Options(**wrong)  # type: ignore[arg-type]


def test_a_finished_run_listens_to_nothing(trackers: Trackers) -> None:
    """Nobody would give the signals back: SIGTERM must end the process as it did."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    tracker = trackers()
    tracker.finish()

    assert not tracker.should_stop()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before


def test_a_watch_whose_end_a_handler_interrupts_is_closed_by_the_next_call() -> None:
    """At whatever place: the signals are given back, and the thread ends."""
    before = signal.getsignal(signal.SIGUSR1)
    for place in itertools.count(1):
        watch = StopWatch(Calls(), Options(), (), Notices(), asks_slurm=False)
        interrupted = interrupt(watch.close, place)
        watch.close()

        assert signal.getsignal(signal.SIGUSR1) is before
        assert not watch._thread.is_alive()
        if not interrupted:
            break
    assert place > 50


@pytest.mark.parametrize("left", [False, True], ids=["void", "a rank has left"])
def test_where_the_ranks_cannot_stop_together_signals_end_the_program_as_before(left: bool) -> None:
    """It would hear SIGTERM for ever, and never stop: nothing but SIGKILL could end it."""
    result = run_script(
        f"""
        import os, signal, time
        import torch.distributed as dist
        from support.runs import make_tracker
        from support.trackers import journal_only
        from fasttrack.preemption import agreement, watch
        from fasttrack.preemption.ballot import Ballot

        agreement.WAIT_S = {60.0 if left else 0.2}
        store = dist.HashStore()
        watch._are_many = lambda: True
        watch.group_store = lambda: store
        watch.own_connection = lambda shared: shared
        watch.get_world_size = lambda: 2
        before = signal.getsignal(signal.SIGINT)
        options = journal_only(stop_signals=("SIGTERM", "SIGINT", "SIGUSR1"))
        tracker = make_tracker(resume_id="one", options=options)
        tracker.log_metrics({{"a": 1}}, step=0)
        assert not tracker.should_stop()
        if {left}:
            Ballot(store, tracker._stopping._watch._key, 1, 2).leave()
        os.kill(os.getpid(), signal.SIGTERM)
        while signal.getsignal(signal.SIGINT) is not before:
            assert not tracker.should_stop()
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert not tracker.should_stop()
        print("goes on", flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        """,
        check=False,
    )

    assert (result.returncode, result.stdout) == (-signal.SIGTERM, "goes on\n"), result.stderr
    assert ("cannot agree" in result.stderr) == (not left)
