"""Counts by reason, and warnings that are said once."""

from __future__ import annotations

import io
import sys
import threading

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
    """Warnings end after a thousand kinds; counting goes on."""
    notices = Notices()
    for number in range(notices_module._DISTINCT_WARNINGS + 50):
        notices.refuse(f"metric/{number}", "no")

    assert notices.counts() == {"refused": notices_module._DISTINCT_WARNINGS + 50}
    assert len(capsys.readouterr().err.splitlines()) == notices_module._DISTINCT_WARNINGS


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
