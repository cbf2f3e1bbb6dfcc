"""Counts by reason, and warnings that are said once."""

from __future__ import annotations

import io
import signal
import sys
import threading
from typing import Any

import pytest

from fasttrack import notices as notices_module
from fasttrack.notices import Notices, say

PREFIX = "[ExperimentTracker] "


def test_counts_add_up_by_reason() -> None:
    """Only what happened is there, and the answer is a copy."""
    notices = Notices()
    notices.count("stale")
    notices.count("stale", 4)
    notices.count("ring_full")
    notices.counts().clear()

    assert notices.counts() == {"stale": 5, "ring_full": 1}


def test_many_threads_lose_no_count() -> None:
    """Eight threads count at once."""
    notices = Notices()

    def count() -> None:
        for _ in range(1000):
            notices.count("x")

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert notices.counts() == {"x": 8000}


def test_each_key_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The first text for a key is the one that is heard."""
    notices = Notices()
    notices.warn("disk", "the disk is full")
    notices.warn("disk", "the disk is still full")
    notices.warn("ring", "the ring is full")

    assert capsys.readouterr().err == f"{PREFIX}the disk is full\n{PREFIX}the ring is full\n"


def test_a_refused_value_is_counted_each_time_and_named_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The warning names the metric and the reason."""
    notices = Notices()
    for _ in range(3):
        notices.refuse("loss/ar", "a str is not one real number")

    assert notices.counts() == {"refused": 3}
    expected = f"{PREFIX}loss/ar: a str is not one real number; not logged\n"
    assert capsys.readouterr().err == expected


def test_metric_names_made_anew_at_every_step_do_not_flood_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Warnings end after a hundred names of one cause, the last says so; counting goes on."""
    notices = Notices()
    for number in range(5000):
        notices.refuse(f"metric/{number}", "no")

    lines = capsys.readouterr().err.splitlines()
    assert notices.counts() == {"refused": 5000}
    assert len(lines) == notices_module._MOST_ALIKE + 1
    assert lines[-1].endswith("(more of this kind is counted only)")
    assert notices.reasons()["others: no"] == 5000 - notices_module._MOST_ALIKE
    assert len(notices.reasons()) == len(lines)


def test_one_metric_that_is_wrong_in_ever_new_ways_does_not_flood_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An object may raise another text each time."""
    notices = Notices()
    for number in range(5000):
        letters = "".join(chr(ord("a") + int(digit)) for digit in str(number))
        notices.refuse("loss/total", f"it raised {letters}")

    assert notices.counts() == {"refused": 5000}
    assert len(capsys.readouterr().err.splitlines()) == notices_module._MOST_ALIKE + 1
    assert sum(notices.reasons().values()) == 5000


def test_a_flood_of_refused_names_does_not_silence_other_trouble(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever came before, that the disk is full is heard, and so is another mistake."""
    notices = Notices()
    for number in range(5000):
        notices.refuse(f"metric/{number}", "no")
    capsys.readouterr()

    notices.warn("disk", "the disk is full")
    notices.refuse("loss/ar", "another mistake")

    said = capsys.readouterr().err
    assert said == f"{PREFIX}the disk is full\n{PREFIX}loss/ar: another mistake; not logged\n"


def test_memory_stays_bounded_whatever_is_lost() -> None:
    """New names with new causes, for ever."""
    notices = Notices()
    for number in range(20_000):
        letters = "".join(chr(ord("a") + int(digit)) for digit in str(number))
        notices.refuse(letters, f"it raised {letters}")

    assert sum(notices.reasons().values()) == 20_000
    assert len(notices.reasons()) <= notices_module._MOST_REASONS + 1
    assert len(notices._alike) <= 2 * notices_module._MOST_REASONS + 2


def test_each_cause_of_one_metric_is_said_and_counted_by_itself(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """After None, a string was dropped without a word; other strings are the same mistake."""
    notices = Notices()
    for step in ("NoneType", "NoneType", "str '3'", "str '4'", "float nan", "list"):
        why = f"step must be an integer, not {step}"
        notices.lose("failed_calls", "log_metrics", why, result="the call was ignored")

    said = capsys.readouterr().err
    assert said.count("the call was ignored") == 4
    assert "not str '3'" in said
    assert "'4'" not in said
    assert notices.counts() == {"failed_calls": 6}
    assert notices.reasons() == {
        "log_metrics: step must be an integer, not NoneType": 2,
        "log_metrics: step must be an integer, not str '3'": 2,
        "log_metrics: step must be an integer, not float nan": 1,
        "log_metrics: step must be an integer, not list": 1,
    }


def test_what_to_do_about_it_is_said_once_and_left_out_of_the_reasons(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The closing line is short."""
    notices = Notices()
    notices.refuse("a", "a str 'x' is not one real number; text belongs to the configuration")

    assert "text belongs to the configuration; not logged" in capsys.readouterr().err
    assert notices.reasons() == {"a: a str 'x' is not one real number": 1}


def test_long_names_and_texts_are_cut_in_the_middle(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the log nor `stats()` grows with them."""
    notices = Notices()
    notices.refuse("a" * 5000 + "z", "b" * 5000)

    (reason,) = notices.reasons()
    assert len(reason) < 650
    assert reason.startswith("aaa")
    assert "z: bbb" in reason
    assert len(capsys.readouterr().err) < 700


def test_a_name_whose_repr_raises_is_named_by_its_type(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever stands in the user's mapping."""

    class Name:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    notices = Notices()
    name: Any = Name()
    notices.refuse(name, "names are strings")

    assert "<Name whose repr() raises>: names are strings; not logged" in capsys.readouterr().err


def test_a_warning_inside_a_count_does_not_deadlock() -> None:
    """A signal handler may count while this thread is counting: the lock is re-entrant."""
    notices = Notices()
    with notices._lock:
        notices.count("x")
        notices.warn("x", "x")

    assert notices.counts() == {"x": 1}


@pytest.mark.parametrize("state", ["closed", "missing", "broken"])
def test_saying_survives_a_stderr_that_is_gone(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    """Daemons close stderr; a terminal may vanish."""

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError("nobody reads")

    stream: io.StringIO | None = {"missing": None, "broken": Broken()}.get(state, io.StringIO())
    if state == "closed":
        assert stream is not None
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)

    say("into the void")  # raises nothing


def test_text_that_stderr_cannot_encode_does_not_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric name with a lone surrogate, on a strict ASCII stderr."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stderr", stream)
    Notices().refuse("métrique/\ud800", "no")

    assert raw.getvalue() == b""


def test_a_line_in_the_midst_of_another_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler that logs may interrupt a write to stderr, which cannot be entered again."""
    entered: list[bytes] = []

    class Terminal(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            entered.append(bytes(data))
            say("from a handler")
            return len(data)

    buffered = io.BufferedWriter(Terminal())
    with io.TextIOWrapper(buffered, line_buffering=True) as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        say("the program's")
        monkeypatch.undo()

    assert len(entered) == 1
    assert b"the program's" in entered[0]


def test_what_a_signal_handler_raises_while_a_line_is_said_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A preemption's TimeoutError is an OSError, as a closed stderr's is."""

    def preempt(number: int, frame: object) -> None:
        raise TimeoutError("stop now")

    class Interrupted(io.StringIO):
        def write(self, text: str) -> int:
            signal.raise_signal(signal.SIGUSR2)
            return super().write(text)

    monkeypatch.setattr(sys, "stderr", Interrupted())
    before = signal.signal(signal.SIGUSR2, preempt)
    try:
        with pytest.raises(TimeoutError, match="stop now"):
            say("a line")
    finally:
        signal.signal(signal.SIGUSR2, before)
