"""fork, exit, exceptions, Ctrl-C, SIGTERM, two trackers: each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.children import STEPS, train, train_rank
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
from support.trackers import Trackers
from torch.multiprocessing.spawn import ProcessException, spawn

from fasttrack.journal.entries import Finish
from fasttrack.journal.reader import read_finish
from fasttrack.journal.run_directory import segments


@pytest.fixture
def make() -> Iterator[Trackers]:
    """What makes trackers that keep their journal only; they are finished afterwards."""
    trackers = Trackers()
    yield trackers
    trackers.finish()


def _signal_when_ready(source: str, number: int) -> tuple[str, str, int]:
    """Run `source`, send it a signal once it has printed its run id; return id, stderr, code."""
    process = start_script(source)
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=HANG_GUARD_S)
    return run_id, stderr, process.returncode


def _finish_of(base: Path, run_id: str) -> Finish:
    finish = read_finish(segments(run_dir(base, run_id))[-1])
    assert finish is not None
    return finish


def test_a_forked_child_is_inert_and_leaves_the_parents_run_alone(tmp_path: Path) -> None:
    """os.fork: the child logs, flushes and finishes nothing; the parent goes on unharmed."""
    result = run_script(
        """
        import os, sys, threading
        from support.runs import make_tracker
        tracker = make_tracker()
        tracker.log_metrics({"a": 0}, step=0)
        child = os.fork()
        if child == 0:
            tracker.log_metrics({"a": 100}, step=100)
            tracker.log_training_step(1.0, 101)
            assert not tracker.is_active()
            assert tracker.flush() is True
            tracker.stats()
            tracker.finish()
            print("in the child", flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status == 0, status
        tracker.log_metrics({"a": 1}, step=1)
        print("in the parent")
        tracker.finish()
        """
    )

    assert "in the child" in result.stdout
    (directory,) = offline_dirs(tmp_path)
    assert [row["a"] for row in wandb_rows(directory)] == [0, 1]
    log = (directory / "files" / "output.log").read_text()
    assert "in the parent" in log
    assert "in the child" not in log


def test_data_loader_workers_do_not_disturb_the_run(tmp_path: Path) -> None:
    """Forked DataLoader workers outlive batches and exit on their own; no row is lost."""
    run_script(
        """
        import torch
        from support.runs import make_tracker
        data = torch.utils.data.TensorDataset(torch.arange(64.0))
        loader = torch.utils.data.DataLoader(
            data, batch_size=4, num_workers=2, multiprocessing_context="fork"
        )
        with make_tracker() as tracker:
            for step, (batch,) in enumerate(loader):
                tracker.log_training_step(batch.mean(), step, 4)
        """
    )

    (directory,) = offline_dirs(tmp_path)
    assert len(wandb_rows(directory)) == 16


def test_exit_without_finish_loses_nothing(tmp_path: Path) -> None:
    """The interpreter's exit finishes the run as successful, and joins the worker."""
    result = run_script(
        """
        from support.runs import make_tracker
        tracker = make_tracker()
        for step in range(1000):
            tracker.log_metrics({"a": step}, step=step)
        print(tracker.get_run_id())
        """
    )

    run_id = result.stdout.strip()
    assert _finish_of(tmp_path, run_id).exit_code == 0
    assert len(wandb_rows(offline_dirs(tmp_path)[0])) == 1000


def test_an_uncaught_exception_without_finish_marks_the_run_as_failed(tmp_path: Path) -> None:
    """The traceback and the exit code stay; the run has its rows."""
    result = run_script(
        """
        from support.runs import make_tracker
        tracker = make_tracker()
        tracker.log_metrics({"a": 1}, step=0)
        print(tracker.get_run_id(), flush=True)
        raise ValueError("training broke")
        """,
        check=False,
    )

    assert result.returncode == 1
    assert "ValueError: training broke" in result.stderr
    assert _finish_of(tmp_path, result.stdout.strip()).exit_code == 1
    assert len(journal_rows(tmp_path, result.stdout.strip())) == 1


def test_sys_exit_in_the_block_keeps_its_code(tmp_path: Path) -> None:
    """`sys.exit(3)` leaves with 3, and the run records it."""
    result = run_script(
        """
        import sys
        from support.runs import make_tracker
        with make_tracker() as tracker:
            tracker.log_metrics({"a": 1}, step=0)
            print(tracker.get_run_id(), flush=True)
            sys.exit(3)
        """,
        check=False,
    )

    assert result.returncode == 3
    assert _finish_of(tmp_path, result.stdout.strip()).exit_code == 3


def test_ctrl_c_ends_the_loop_and_finishes_the_run(tmp_path: Path) -> None:
    """KeyboardInterrupt reaches the user; all rows are kept; the process ends as Python does."""
    run_id, stderr, code = _signal_when_ready(
        """
        import itertools, signal
        from support.runs import make_tracker
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with make_tracker() as tracker:
            tracker.log_metrics({"a": -1}, step=0)
            print(tracker.get_run_id(), flush=True)
            for step in itertools.count(1):
                tracker.log_metrics({"a": step}, step=step)
        """,
        signal.SIGINT,
    )

    assert "KeyboardInterrupt" in stderr
    assert code in (1, 130, -signal.SIGINT)
    finish = _finish_of(tmp_path, run_id)
    assert finish.exit_code == 130
    rows = [row.values["a"] for row in journal_rows(tmp_path, run_id)]
    assert rows == [-1, *range(1, len(rows))]
    assert len(wandb_rows(offline_dirs(tmp_path)[0])) == len(rows)


def test_a_second_ctrl_c_while_the_program_ends_loses_no_row(tmp_path: Path) -> None:
    """It comes while exit handlers wait for the worker, after which nobody would come."""
    result = run_script(
        """
        import os, signal
        from support.trackers import journal_only
        from support.runs import make_tracker
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tracker = make_tracker(resume_id="one", options=journal_only())
        worker = tracker._engine._worker
        stop = worker.stop
        def stop_and_be_interrupted(timeout_s):
            worker.stop = stop
            os.kill(os.getpid(), signal.SIGINT)
            return stop(timeout_s)
        worker.stop = stop_and_be_interrupted
        for step in range(100):
            tracker.log_metrics({"a": step}, step=step)
        os.kill(os.getpid(), signal.SIGINT)
        """,
        check=False,
    )

    assert result.stderr.count("KeyboardInterrupt") == 2, result.stderr
    assert [row.values["a"] for row in journal_rows(tmp_path, "one")] == list(range(100))
    assert _finish_of(tmp_path, "one").exit_code == 130


def test_sigterm_flushes_marks_preempting_and_kills(tmp_path: Path) -> None:
    """Without a handler of the user's: the default action happens, after the journal is whole."""
    run_id, _, code = _signal_when_ready(
        """
        import itertools
        from support.runs import make_tracker
        tracker = make_tracker()
        tracker.log_metrics({"a": -1}, step=0)
        print(tracker.get_run_id(), flush=True)
        for step in itertools.count(1):
            tracker.log_metrics({"a": step}, step=step)
        """,
        signal.SIGTERM,
    )

    assert code == -signal.SIGTERM
    finish = _finish_of(tmp_path, run_id)
    assert (finish.preempting, finish.exit_code) == (True, 143)
    rows = [row.values["a"] for row in journal_rows(tmp_path, run_id)]
    assert rows == [-1, *range(1, len(rows))]
    wait_until(lambda: bool(offline_dirs(tmp_path)))
    wait_until(lambda: b'"offline_proof": "' in _cursor(tmp_path, run_id))
    assert len(wandb_rows(offline_dirs(tmp_path)[0])) == len(rows)


def _cursor(base: Path, run_id: str) -> bytes:
    path = run_dir(base, run_id) / "cursor.json"
    return path.read_bytes() if path.exists() else b""


def test_a_second_sigterm_does_not_cut_the_first_short(tmp_path: Path) -> None:
    """Slurm sends it twice at the time limit: the run is preempted, not crashed."""
    process = start_script(
        """
        import itertools, time
        from support.runs import make_tracker
        tracker = make_tracker()
        print(tracker.get_run_id(), flush=True)
        for step in itertools.count():
            tracker.log_metrics({"a": step}, step=step)
            time.sleep(0.001)
        """
    )
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    for _ in range(20):  # from the first on it may be gone at any moment
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=HANG_GUARD_S)

    assert process.returncode == -signal.SIGTERM
    assert _finish_of(tmp_path, run_id).preempting is True


def test_a_users_sigterm_handler_is_never_replaced(tmp_path: Path) -> None:
    """Installed before or after the tracker, it is the one that runs."""
    for when in ("before", "after"):
        run_id, _, code = _signal_when_ready(
            f"""
            import signal, sys, time
            from support.runs import make_tracker
            def handler(number, frame):
                tracker.finish(7, preempting=True)
                sys.exit(7)
            if {when!r} == "before":
                signal.signal(signal.SIGTERM, handler)
            tracker = make_tracker()
            if {when!r} == "after":
                signal.signal(signal.SIGTERM, handler)
            tracker.log_metrics({{"a": 1}}, step=0)
            print(tracker.get_run_id(), flush=True)
            while True:
                time.sleep(0.01)  # a signal just before a long one would wait for its end
            """,
            signal.SIGTERM,
        )

        assert code == 7
        finish = _finish_of(tmp_path, run_id)
        assert (finish.exit_code, finish.preempting) == (7, True)


def test_sigterm_is_as_it_was_after_the_last_tracker(tmp_path: Path) -> None:
    """Nothing of ours stays installed."""
    with make_tracker() as tracker:
        tracker.log_metrics({"a": 1}, step=0)
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL

    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_two_trackers_in_one_process_keep_their_rows_apart(tmp_path: Path) -> None:
    """Each has its own run, worker and delivery."""
    with make_tracker() as one, make_tracker() as two:
        for step in range(50):
            one.log_metrics({"a": step}, step=step)
            two.log_metrics({"b": step}, step=step)

    assert one.get_run_id() != two.get_run_id()
    for tracker, name in ((one, "a"), (two, "b")):
        (directory,) = (tmp_path / "wandb").glob(f"offline-run-*-{tracker.get_run_id()}")
        assert [row[name] for row in wandb_rows(directory)] == list(range(50))


def test_logging_from_a_signal_handler_is_safe(tmp_path: Path) -> None:
    """A handler may log in the middle of a log call: nothing is lost, nothing hangs."""
    result = run_script(
        """
        import itertools, signal
        from support.runs import make_tracker
        tracker = make_tracker()
        numbers, fired = itertools.count(), []
        def handler(number, frame):
            value = next(numbers)
            tracker.log_metrics({"handler": value}, step=value)
            fired.append(value)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        step = 0
        while len(fired) < 200:
            if step < 20_000:
                tracker.log_metrics({"loop": step}, step=step)
                step += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        tracker.finish()
        print(tracker.get_run_id(), step, len(fired))
        """,
    )

    run_id, steps, fired = result.stdout.split()
    rows = [row.values for row in journal_rows(tmp_path, run_id)]
    assert [row["loop"] for row in rows if "loop" in row] == list(range(int(steps)))
    # Handlers interrupt each other too, so theirs need not be in order.
    assert sorted(row["handler"] for row in rows if "handler" in row) == list(range(int(fired)))


def test_wandb_stays_out_of_training_and_torch_out_of_delivery(tmp_path: Path) -> None:
    """The training process never imports wandb; the delivery process never maps libtorch."""
    run_script(
        """
        import sys
        from support.runs import delivery_pid, make_tracker, wait_until
        tracker = make_tracker()
        tracker.log_metrics({"a": 1}, step=0)
        wait_until(lambda: tracker.stats().rows_delivered == 1)
        with open(f"/proc/{delivery_pid(tracker)}/maps") as maps:
            assert "libtorch" not in maps.read()
        tracker.finish()
        assert not [name for name in sys.modules if name.split(".")[0] == "wandb"]
        """,
        fresh=True,
    )


# --- children of multiprocessing ------------------------------------------------------------------

START_METHODS = ("fork", "spawn", "forkserver")
ENDINGS = {"return": 0, "raise": 1, "exit": 3, "word": 1, "interrupt": 130}


@pytest.mark.parametrize("method", START_METHODS)
def test_a_multiprocessing_child_ends_its_run_with_its_exit_code(
    tmp_path: Path, method: str
) -> None:
    """No exit handler of the interpreter runs there; no row of the last interval is lost."""
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":  # or each of its children would import torch
        context.set_forkserver_preload(["torch", "fasttrack.tracker"])
    processes = {}
    for how in ENDINGS:
        processes[how] = context.Process(target=train, args=(f"{how}-{method}", str(tmp_path)))
        processes[how].start()

    for how, exit_code in ENDINGS.items():
        processes[how].join(HANG_GUARD_S)
        run_id = f"{how}-{method}"
        rows = [row.values["a"] for row in journal_rows(tmp_path, run_id)]
        assert rows == list(range(STEPS)), how
        assert _finish_of(tmp_path, run_id).exit_code == exit_code, how
        assert processes[how].exitcode == (1 if how == "interrupt" else exit_code), how


@pytest.mark.parametrize("how", ["return", "raise", "exit"])
def test_ranks_that_torch_spawns_end_their_runs_with_their_exit_code(
    tmp_path: Path, how: str
) -> None:
    """`torch.multiprocessing.spawn` hands exceptions on by a file and an exit code of 1."""
    fails = contextlib.nullcontext() if how == "return" else pytest.raises(ProcessException)
    with fails:
        spawn(train_rank, args=(how, str(tmp_path)), nprocs=1)

    rows = [row.values["a"] for row in journal_rows(tmp_path, f"{how}-0")]
    assert rows == list(range(STEPS))
    assert _finish_of(tmp_path, f"{how}-0").exit_code == ENDINGS[how]


def test_workers_of_pools_end_their_runs(tmp_path: Path) -> None:
    """The standard library's two pools: runs end with the worker, having all their rows."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        list(executor.map(train, ["pool-1", "pool-2"], [str(tmp_path)] * 2))
    pool = context.Pool(1)
    pool.apply(train, ("pool-3", str(tmp_path)))
    pool.close()
    pool.join()

    for run_id in ("pool-1", "pool-2", "pool-3"):
        assert len(journal_rows(tmp_path, run_id)) == STEPS
        assert _finish_of(tmp_path, run_id).exit_code == 0


@pytest.mark.parametrize("method", START_METHODS)
def test_a_data_loader_takes_a_dataset_that_holds_the_tracker(tmp_path: Path, method: str) -> None:
    """Its workers log nothing, say so once each, and leave the run alone."""
    result = run_script(
        f"""
        import torch
        from support.children import LoggingData
        from support.runs import make_tracker
        from support.trackers import journal_only
        tracker = make_tracker(resume_id="one", options=journal_only())
        loader = torch.utils.data.DataLoader(
            LoggingData(tracker), batch_size=2, num_workers=2, multiprocessing_context={method!r}
        )
        print([item for batch in loader for item in batch.tolist()])
        tracker.log_metrics({{"a": 1}}, step=1)
        tracker.finish()
        """,
        warnings="ignore",  # of forking with threads
    )

    assert result.stdout.strip() == str([float(index) for index in range(8)])
    assert [row.values for row in journal_rows(tmp_path, "one")] == [{"a": 1}]
    said = [line for line in result.stderr.splitlines() if "does not record the run one" in line]
    assert len(said) == 2


# --- exit codes of the program --------------------------------------------------------------------


# What ends the program, the run's exit code, the program's.
_ENDS_OF_PROGRAMS: list[tuple[str, int, int]] = [
    ("sys.exit(3)", 3, 3),
    ("sys.exit()", 0, 0),
    ("sys.exit(True)", 1, 1),
    ("sys.exit('enough')", 1, 1),
    ("sys.exit(10**30)", 1, 255),
    ("def main():\n    local = tracker\n    sys.exit(3)\nmain()", 3, 3),
    ("try:\n    sys.exit(3)\nfinally:\n    print('on the way')", 3, 3),
    ("try:\n    sys.exit(3)\nexcept SystemExit:\n    pass", 0, 0),
    ("try:\n    sys.exit(3)\nexcept SystemExit as error:\n    kept = error", 0, 0),
    ("try:\n    sys.exit(3)\nexcept SystemExit:\n    sys.exit(4)", 4, 4),
    ("try:\n    sys.exit(3)\nexcept SystemExit:\n    raise ValueError", 1, 1),
    ("import threading\nt = threading.Thread(target=sys.exit, args=(3,))\nt.start()", 0, 0),
    ("import _thread, time\n_thread.start_new_thread(sys.exit, (3,))\ntime.sleep(0.2)", 0, 0),
    ("raise KeyboardInterrupt", 130, 130),
    ("from sys import exit\ntracker.finish(5)\nexit(3)", 5, 3),
]


def test_exit_code_of_a_program_without_a_block(tmp_path: Path) -> None:
    """`sys.exit(n)` that nobody catches is what the run ends with, and nothing else is.

    The programs are forks of one that has imported everything and has no tracker.
    """
    result = run_script(
        """
        import json, os, sys
        from support.trackers import journal_only
        from support.runs import make_tracker
        ends = []
        for number, ending in enumerate(json.loads(sys.argv[1])):
            child = os.fork()
            if not child:
                tracker = make_tracker(resume_id=f"run-{number}", options=journal_only())
                tracker.log_metrics({"a": 1}, step=0)
                exec(ending)
                break
            ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        else:
            print(json.dumps(ends))
        """,
        json.dumps([ending for ending, _, _ in _ENDS_OF_PROGRAMS]),
    )
    ends = json.loads(result.stdout.splitlines()[-1])

    for number, (ending, exit_code, returncode) in enumerate(_ENDS_OF_PROGRAMS):
        assert _finish_of(tmp_path, f"run-{number}").exit_code == exit_code, ending
        expected = {130, -signal.SIGINT} if returncode == 130 else {returncode}
        assert ends[number] in expected, (ending, result.stderr)
        assert len(journal_rows(tmp_path, f"run-{number}")) == 1


def test_sys_exit_is_as_it_was_after_the_last_tracker(make: Trackers) -> None:
    """Also where somebody else has wrapped it meanwhile: theirs stays."""
    before = sys.exit
    one, two = make(), make()
    assert sys.exit is not before

    one.finish()
    assert sys.exit is not before
    two.finish()

    assert sys.exit is before
