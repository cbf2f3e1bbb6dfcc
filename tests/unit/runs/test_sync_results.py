"""`deliver_run` on programs that report as a delivery process does."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support.journals import row, write_attempt

from fasttrack.delivery.events import Busy, Done, Event, Progress, encode
from fasttrack.runs import LocalRun, SyncResult, deliver_run, find_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

ARRIVED = Done(backend="wandb", delivered=True, rows=1, proof="the last step is 0", url="https://x")
WRITTEN = Done(backend="tensorboard", delivered=True, rows=1, proof="1 row read", directory="/t")


@pytest.fixture
def run(tmp_path: Path) -> LocalRun:
    """A run of one row."""
    write_attempt(tmp_path, "ab", row(0, 0, loss=1.0))
    return find_run("ab")


def saying(*events: Event | str, code: int = 0) -> Callable[[Path], Sequence[str]]:
    """Return the command of a program that says this and exits with `code`."""
    lines = [e if isinstance(e, str) else encode(e).decode().strip() for e in events]
    source = (
        "import sys; print(*sys.argv[2:], sep='\\n'); print('to the log', file=sys.stderr);"
        " sys.exit(int(sys.argv[1]))"
    )
    return lambda run_dir: [sys.executable, "-c", source, str(code), *lines]


def outcome(result: SyncResult) -> dict[str, Any]:
    """Return what of a result differs from that of a run of which nothing is known."""
    nothing = SyncResult(run_id=result.run_id, directory=result.directory).as_json()
    return {name: value for name, value in result.as_json().items() if value != nothing[name]}


def test_result_is_what_the_backend_said_at_its_end(run: LocalRun) -> None:
    """What a client prints between the reports is passed over; stderr goes to the run's log."""
    told: list[Event] = []
    progress = Progress(backend="wandb", rows=1)
    command = saying("wandb: hello", progress, "[1]", ARRIVED)
    result = deliver_run(run, on_event=told.append, command=command)
    log = run.directory / "delivery.log"

    assert told == [progress, ARRIVED]
    assert (result.run_id, result.directory) == ("ab", str(run.directory))
    assert outcome(result) == {
        "delivered": True,
        "rows": 1,
        "proof": "the last step is 0",
        "url": "https://x",
        "backends": {
            "wandb": {
                "delivered": True,
                "already": False,
                "offline": False,
                "rows": 1,
                "proof": "the last step is 0",
                "url": "https://x",
                "directory": None,
                "reason": None,
            }
        },
    }
    assert log.read_text() == "to the log\n"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_run_is_delivered_when_every_backend_has_it(run: LocalRun) -> None:
    """Proofs are told with the backends' names where there are several."""
    result = deliver_run(run, command=saying(WRITTEN, ARRIVED))

    assert (result.delivered, result.already, result.rows) == (True, False, 1)
    assert result.proof == "tensorboard: 1 row read; wandb: the last step is 0"
    assert (result.url, result.reason) == ("https://x", None)
    assert {done.backend for done in result.backends} == {"wandb", "tensorboard"}


def test_run_is_not_delivered_when_one_backend_lacks_it(run: LocalRun) -> None:
    """The reason says which one, and why."""
    lost = Done(backend="wandb", delivered=False, reason="it does not answer")
    result = deliver_run(run, command=saying(WRITTEN, lost, code=1))

    assert not result.delivered
    assert result.reason == "wandb: it does not answer"
    assert {d.backend: d.delivered for d in result.backends} == {
        "wandb": False,
        "tensorboard": True,
    }


@pytest.mark.parametrize(("also", "already"), [(True, True), (False, False)])
def test_nothing_was_left_to_do_only_where_all_backends_say_so(
    run: LocalRun, also: bool, already: bool
) -> None:
    """One that was behind was delivered to."""
    first = Done(backend="wandb", delivered=True, already=True)
    second = Done(backend="tensorboard", delivered=True, already=also)

    assert deliver_run(run, command=saying(first, second)).already is already


@pytest.mark.parametrize("said", [[], [ARRIVED]])
def test_process_that_dies_has_not_delivered(run: LocalRun, said: list[Event]) -> None:
    """Whatever it said before; its log is named."""
    result = deliver_run(run, command=saying(*said, code=1))

    assert not result.delivered
    assert result.reason == f"delivery ended with 1; see {run.directory}/delivery.log"


def test_process_that_says_nothing_and_exits_well_has_not_delivered(run: LocalRun) -> None:
    """Nothing is proven without a word."""
    assert not deliver_run(run, command=saying()).delivered


def test_run_that_another_process_delivers_is_busy(run: LocalRun) -> None:
    """Which, is said."""
    busy = Busy(holder="fasttrack sync (process 7 on node1)")
    assert outcome(deliver_run(run, command=saying(busy, code=3))) == {
        "busy": True,
        "reason": "it is being delivered by fasttrack sync (process 7 on node1)",
    }


def test_a_process_that_lies_still_is_named_and_given_up(run: LocalRun) -> None:
    """Its reports were waited for without limit, where somebody had stopped it."""
    source = (
        "import os, signal; print('begun', flush=True); "
        "os.kill(os.getpid(), signal.SIGSTOP); print('never', flush=True)"
    )
    told: list[str] = []
    command = [sys.executable, "-c", source]
    result = deliver_run(run, on_silence=told.append, command=lambda _: command, silence_s=0.4)

    (why,) = told
    assert why.startswith("its process ")
    assert "is stopped ('kill -CONT " in why
    assert not result.delivered
    assert str(result.reason).startswith(f"{why}; it was ended after")


def test_a_process_that_goes_on_is_waited_for(run: LocalRun) -> None:
    """However long it takes altogether, as long as it gives signs of life."""
    source = (
        "import sys, time\n"
        'for _ in range(20): print(\'{"event":"beat"}\', flush=True); time.sleep(0.05)\n'
        "print(sys.argv[1])"
    )
    command = [sys.executable, "-c", source, encode(ARRIVED).decode().strip()]

    assert deliver_run(run, command=lambda _: command, silence_s=60).delivered


def test_a_process_whose_child_holds_its_pipe_has_ended(run: LocalRun) -> None:
    """A client's helper that outlives it says nothing, and is not waited for."""
    source = (
        "import subprocess, sys; print(sys.argv[1], flush=True); "
        "print(subprocess.Popen(['sleep', '600']).pid, file=sys.stderr)"
    )
    command = [sys.executable, "-c", source, encode(ARRIVED).decode().strip()]
    result = deliver_run(run, command=lambda _: command, silence_s=1000)
    os.kill(int((run.directory / "delivery.log").read_text()), signal.SIGKILL)

    assert result.delivered


def test_run_for_the_journal_only_starts_no_process(tmp_path: Path) -> None:
    """There is nowhere to deliver it, and that is said."""
    write_attempt(tmp_path, "cd", backends=())
    run = find_run("cd")
    result = deliver_run(run, command=saying(ARRIVED))

    assert not result.delivered
    assert "journal only" in str(result.reason)
    assert os.listdir(run.directory) == ["segment-0001.jsonl"]


def test_process_that_cannot_be_started_is_a_reason_not_an_error(run: LocalRun) -> None:
    """The others of `--all` are delivered all the same; so it is where the log cannot be opened."""
    absent = deliver_run(run, command=lambda run_dir: ["/no/such/python"])
    (run.directory / "delivery.log").unlink()
    (run.directory / "delivery.log").mkdir()
    blocked = deliver_run(run, command=saying(ARRIVED))

    assert str(absent.reason).startswith("delivery cannot be started: [Errno 2]")
    assert str(blocked.reason).startswith("delivery cannot be started: [Errno 21]")
    assert json.dumps(blocked.as_json())
