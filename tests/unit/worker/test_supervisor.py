"""What the trainer hears of delivery, and how long it waits for it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from fasttrack.worker import supervisor
from fasttrack.worker.supervisor import DeliveryReport


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        monkeypatch.setattr(supervisor.time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(supervisor.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The supervisor's clock."""
    return Clock(monkeypatch)


def upload(state: str, **more: Any) -> dict[str, Any]:
    """Return a report about an artifact."""
    known = {"number": 1, "name": "model-ab12", "aliases": ["best"], "size_bytes": 10**10}
    return {"event": "upload", "state": state, **known, **more}


def said_by(state: DeliveryReport, *events: dict[str, Any]) -> list[str]:
    """Apply reports; return what the user is told."""
    said: list[str] = []
    for event in events:
        state.apply(event, lambda key, text: said.append(text))
    return said


def test_an_artifact_is_under_way_until_it_has_arrived_or_failed() -> None:
    """A failure is said with its reason."""
    state = DeliveryReport()
    quiet = said_by(state, upload("hashing"), upload("uploading"))
    under_way = dict(state.uploading)
    loud = said_by(state, upload("failed", reason="HTTP 403"))

    assert (quiet, under_way) == ([], {1: "model-ab12 (10.0 GB, uploading)"})
    assert loud == ["artifact model-ab12 was not uploaded: HTTP 403"]
    assert state.uploading == {}


def test_without_uploads_the_wait_ends_at_its_deadline(clock: Clock) -> None:
    """However long uploads could have had."""
    over = supervisor._wait(lambda: False, DeliveryReport(), 5.0, 3600.0)

    assert not over
    assert clock.now_s == pytest.approx(5.0, abs=0.1)


def test_uploads_get_their_time_and_the_run_its_own_after_them(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who waits is told how far it is; after the last upload the run must still be finished."""
    state = DeliveryReport(uploading={1: "model-ab12 (10.0 GB, uploading)"})

    def is_over() -> bool:
        if clock.now_s >= 25.0:
            state.uploading.clear()
        elif clock.now_s >= 15.0:
            state.uploaded_bytes = 3 * 10**9
        return clock.now_s >= 29.0  # finished and proven

    assert supervisor._wait(is_over, state, 5.0, 3600.0)
    assert capsys.readouterr().err.splitlines() == [
        "[ExperimentTracker] waiting for model-ab12 (10.0 GB, uploading)",
        "[ExperimentTracker] waiting for model-ab12 (10.0 GB, uploading); 3.0 GB sent",
    ]


def test_uploads_that_never_end_have_a_limit(clock: Clock) -> None:
    """The trainer leaves; the journal and the staged files stay."""
    state = DeliveryReport(uploading={1: "model-ab12 (10.0 GB, uploading)"})

    assert not supervisor._wait(lambda: False, state, 5.0, 100.0)
    assert clock.now_s == pytest.approx(105.0, abs=0.1)


def test_a_delivery_that_ends_is_noticed_at_once(clock: Clock) -> None:
    """Whatever time is left."""
    looks = itertools.count()

    assert supervisor._wait(lambda: next(looks) >= 2, DeliveryReport(), 60.0, 3600.0)
    assert clock.now_s < 1.0
