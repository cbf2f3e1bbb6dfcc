"""What the trainer hears of delivery, and how long it waits for it."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
from support.deliveries import ManualClock

from fasttrack.delivery.events import (
    Busy,
    Done,
    Event,
    Offline,
    Online,
    Progress,
    Trouble,
    Upload,
    encode,
)
from fasttrack.worker.delivery_report import DeliveryReport
from fasttrack.worker.supervisor import DeliveryProcess, NoDelivery, wait


class Piped(DeliveryProcess):
    """One whose process is whoever writes into its pipe."""

    def __init__(self, segment: Path, reports: int) -> None:
        """Read from `reports`."""
        self._pipe = reports
        super().__init__(segment, ("wandb",), lambda key, text: None)

    def _start(self) -> None:
        self._reports, self._partial = self._pipe, b""


def upload(state: str, **more: Any) -> Upload:
    """Return a report about an artifact."""
    known: dict[str, Any] = {"number": 1, "name": "model-ab12", "size_bytes": 10**10}
    return Upload(backend="wandb", state=state, **known, **more)


def said_by(report: DeliveryReport, *events: Event) -> list[str]:
    """Apply reports; return what the user is told, each thing once."""
    said: dict[str, str] = {}

    def warn(key: str, text: str) -> None:
        said.setdefault(key, text)

    for event in events:
        report.apply(event, warn)
    return list(said.values())


def wait_for(report: DeliveryReport, clock: ManualClock, over: Any, *limits_s: float) -> bool:
    """Wait on a clock that only pauses move."""
    return wait(over, report, *limits_s, clock=clock, pause=clock.pause)


def test_an_artifact_is_under_way_until_it_has_arrived_or_failed() -> None:
    """A failure is said with its reason."""
    report = DeliveryReport(("wandb",))
    quiet = said_by(report, upload("hashing"), upload("uploading"))
    under_way = report.uploading
    loud = said_by(report, upload("failed", reason="HTTP 403"))

    assert (quiet, under_way) == ([], ["model-ab12 (10.0 GB, uploading)"])
    assert loud == ["artifact model-ab12 was not uploaded: HTTP 403"]
    assert report.uploading == []


def test_one_backend_is_told_of_without_its_name() -> None:
    """As long as there is only one, everybody knows whose trouble it is."""
    report = DeliveryReport(("wandb",))
    said = said_by(
        report,
        Online(backend="wandb", url="https://x"),
        Trouble(backend="wandb", reason="HTTP 500", rows=3),
        Offline(backend="wandb", directory="/w/offline-run-1", reason="DNS"),
        Progress(backend="wandb", rows=5),
    )

    assert said == [
        "View run at: https://x",
        "delivery was interrupted (HTTP 500); all rows are safe in the journal; training goes on",
        "Network unavailable, logging offline: DNS",
        "Offline mode. Run 'wandb sync' to upload later.",
    ]
    assert (report.url, report.offline, report.rows) == ("https://x", True, 5)
    assert report.directory == "/w/offline-run-1"


def test_several_backends_are_done_when_the_last_one_is() -> None:
    """Rows are those of the slowest; a reason names whose it is."""
    report = DeliveryReport(("wandb", "tensorboard"))
    said = said_by(
        report,
        Online(backend="tensorboard", directory="/tb"),
        Progress(backend="tensorboard", rows=10),
        Trouble(backend="wandb", reason="HTTP 500"),
    )
    early = (report.rows, report.done)
    said_by(
        report,
        Done(backend="tensorboard", delivered=True, rows=10, directory="/tb"),
        Done(backend="wandb", delivered=False, rows=4, reason="HTTP 500"),
        Busy(),
    )

    assert said[0] == "tensorboard: rows go to /tb"
    assert said[1].startswith("wandb: delivery was interrupted (HTTP 500)")
    assert early == (0, False)
    assert (report.rows, report.done, report.delivered) == (4, True, False)
    assert (report.reason, report.directory, report.url) == ("wandb: HTTP 500", "/tb", None)


def test_a_run_that_comes_online_later_is_offline_no_more() -> None:
    """It fell back, and uploaded at its end."""
    report = DeliveryReport(("wandb",))
    said_by(
        report,
        Offline(backend="wandb", directory="/w", reason="DNS"),
        Online(backend="wandb", url="https://x"),
        Done(backend="wandb", delivered=True, rows=2, url="https://x"),
    )

    assert (report.offline, report.url, report.delivered) == (False, "https://x", True)


def test_the_same_trouble_of_two_backends_is_said_of_both() -> None:
    """A full disk is no less full for the second."""
    report = DeliveryReport(("wandb", "tensorboard"))
    troubles = [Trouble(backend=name, reason="the disk is full") for name in report.backends]

    said = said_by(report, *troubles, *troubles)
    assert [text.partition(":")[0] for text in said] == ["wandb", "tensorboard"]


def test_a_last_upload_that_failed_leaves_the_run_offline() -> None:
    """The server was opened, and took not all; what is whole is the stand-in."""
    report = DeliveryReport(("wandb",))
    said_by(
        report,
        Offline(backend="wandb", directory="/w/offline-run-1", reason="DNS"),
        Online(backend="wandb", url="https://x", directory="/w/run-1"),
        Done(backend="wandb", delivered=True, offline=True, rows=2, directory="/w/offline-run-1"),
    )

    assert (report.offline, report.directory) == (True, "/w/offline-run-1")


def test_a_torn_report_costs_no_other(tmp_path: Path) -> None:
    """The pipe was full, and took half a line."""
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    delivery = Piped(tmp_path / "segment-0001.jsonl", ours)
    done = encode(Done(backend="wandb", delivered=True, rows=2))
    os.write(theirs, done[:10] + done + done)
    delivery.poll()

    assert delivery.report.done
    os.close(theirs)
    os.close(ours)


def test_a_journal_only_run_is_delivered_from_the_start() -> None:
    """There is nothing to wait for."""
    delivery = NoDelivery()
    delivery.poll()

    assert delivery.wait(0.0, 0.0) is True
    assert (delivery.report.done, delivery.report.delivered) == (True, True)
    assert (delivery.report.rows, delivery.report.url, delivery.report.offline) == (0, None, False)
    delivery.close()


def test_without_uploads_the_wait_ends_at_its_deadline() -> None:
    """However long uploads could have had."""
    clock = ManualClock()

    assert not wait_for(DeliveryReport(("wandb",)), clock, lambda: False, 5.0, 3600.0)
    assert clock.elapsed_s == pytest.approx(5.0, abs=0.1)


def test_uploads_get_their_time_and_the_run_its_own_after_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Who waits is told how far it is; after the last upload the run must still be finished."""
    clock = ManualClock()
    report = DeliveryReport(("wandb",))
    said_by(report, upload("uploading"))
    sent = Progress(backend="wandb", rows=1, uploaded_bytes=3 * 10**9)
    clock.at(15.0, lambda: said_by(report, sent))
    clock.at(25.0, lambda: said_by(report, upload("done")))

    assert wait_for(report, clock, lambda: clock.elapsed_s >= 29.0, 5.0, 3600.0)
    assert capsys.readouterr().err.splitlines() == [
        "[ExperimentTracker] waiting for model-ab12 (10.0 GB, uploading)",
        "[ExperimentTracker] waiting for model-ab12 (10.0 GB, uploading); 3.0 GB sent",
    ]


def test_uploads_that_never_end_have_a_limit() -> None:
    """The trainer leaves; the journal and the staged files stay."""
    clock = ManualClock()
    report = DeliveryReport(("wandb",))
    said_by(report, upload("uploading"))

    assert not wait_for(report, clock, lambda: False, 5.0, 100.0)
    assert clock.elapsed_s == pytest.approx(105.0, abs=0.1)


def test_a_delivery_that_ends_is_noticed_at_once() -> None:
    """Whatever time is left."""
    clock = ManualClock()
    looks = itertools.count()

    assert wait_for(DeliveryReport(("wandb",)), clock, lambda: next(looks) >= 2, 60.0, 3600.0)
    assert clock.elapsed_s < 1.0
