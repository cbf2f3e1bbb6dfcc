"""What the trainer hears of delivery, and how long it waits for it."""

from __future__ import annotations

import itertools
import os
import select
import shutil
import signal
import subprocess
import sys
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
        Offline(backend="wandb", directory="/w/offline-run-1", reason="DNS", network=True),
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


def test_a_refusal_is_not_called_a_matter_of_the_network() -> None:
    """Whoever reads "Network unavailable" looks for the fault in the wrong place."""
    report = DeliveryReport(("wandb",))
    refused = Offline(backend="wandb", directory="/w/offline-run-1", reason="no W&B account")

    assert said_by(report, refused)[0] == "Not online, logging offline: no W&B account"
    said_by(report, upload("uploading"))
    assert report.uploading == ["model-ab12 (10.0 GB, kept offline)"]


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


# --- the process itself ---------------------------------------------------------------------------


class Supervised:
    """Delivery by a program of the test's, and a clock to be moved."""

    def __init__(self, run_dir: Path, source: str, **arguments: Any) -> None:
        """Start it; it is called with --trainer-pid and --report-fd."""
        self.clock = ManualClock()
        self.said: list[str] = []
        self.starts = 0
        self._source = source
        self.segment = run_dir / "segment-0001.jsonl"
        self.segment.touch()
        self.delivery = DeliveryProcess(
            self.segment,
            ("wandb",),
            lambda key, text: self.said.append(text),
            command=self._command,
            clock=self.clock,
            **arguments,
        )

    def _command(self, segment: Path) -> list[str]:
        self.starts += 1
        return [sys.executable, "-c", self._source]

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process of now."""
        return self.delivery._process

    def let_die(self, seconds: float = 0.0) -> None:
        """Wait until the process has ended, let time pass, and have it looked at."""
        self.process.wait(timeout=60)
        self.delivery.poll()
        self.clock.now_s += seconds
        self.delivery.poll()


DIES = "raise SystemExit(3)"
BEATS = """
import os, sys, time
fd = int(sys.argv[sys.argv.index("--report-fd") + 1])
os.write(fd, b'{"event":"beat"}\\n')
time.sleep(600)
"""


def test_five_restarts_are_announced_and_made(tmp_path: Path) -> None:
    """The fifth was announced, and never made."""
    supervised = Supervised(tmp_path, DIES)
    for pause_s in (1, 2, 4, 8, 16):
        supervised.let_die(pause_s - 0.01)
        before = supervised.starts
        supervised.clock.now_s += 0.02
        supervised.delivery.poll()
        assert supervised.starts == before + 1
    supervised.let_die(10_000)
    supervised.delivery.close()

    assert supervised.starts == 6
    again = [text for text in supervised.said if "is started again" in text]
    assert len(again) == 5
    assert "ended (exit code 3) again and again" in supervised.said[-1]
    assert "started once more at finish()" in supervised.said[-1]
    assert supervised.delivery.report.reason is not None


def test_a_process_that_was_given_up_is_started_again_at_the_end(tmp_path: Path) -> None:
    """The last rows of a run are worth another try, and who waits is told why it fails."""
    supervised = Supervised(tmp_path, DIES)
    for _ in range(6):
        supervised.let_die(100)
    given_up_at = supervised.starts

    over = supervised.delivery.wait(0.5, 0.0)

    supervised.delivery.close()
    assert (given_up_at, over) == (6, False)
    assert supervised.starts == 7


def test_a_process_whose_journal_was_deleted_is_not_started_again(tmp_path: Path) -> None:
    """It could deliver nothing, and yet "nothing is lost" was said, and `finish()` waited."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    supervised = Supervised(run_dir, DIES)
    supervised.process.wait(timeout=60)
    shutil.rmtree(run_dir)
    for _ in range(10):
        supervised.let_die(100)
    over = supervised.delivery.wait(3600.0, 3600.0)
    supervised.delivery.close()

    assert over
    assert supervised.starts == 1
    assert supervised.said == [
        f"the journal is lost: {supervised.segment} was deleted, so that nothing more is delivered"
    ]


def test_restarts_are_all_there_again_after_a_minute_of_work(tmp_path: Path) -> None:
    """A run of weeks may lose its delivery process more than five times."""
    works = BEATS.replace('"event":"beat"', '"event":"progress","backend":"wandb","rows":1')
    supervised = Supervised(tmp_path, works)
    for _ in range(12):
        for _ in range(61):  # it is looked at about once a second
            supervised.clock.now_s += 1.0
            supervised.delivery.poll()
        wait_for_report(supervised)
        supervised.process.kill()
        supervised.let_die(1.0)

    assert supervised.starts == 13
    supervised.process.kill()
    supervised.process.wait(timeout=60)
    supervised.delivery.close()


def wait_for_report(supervised: Supervised) -> None:
    """Have the report of the process of now taken in."""
    select.select([supervised.delivery._reports], [], [], 60)
    supervised.delivery.poll()


def test_a_process_that_gives_no_sign_of_life_is_ended_and_replaced(tmp_path: Path) -> None:
    """SIGSTOP, or a lock that it never gets: it was waited for until the end of the run."""
    supervised = Supervised(tmp_path, BEATS, silence_s=20.0)
    wait_for_report(supervised)
    supervised.process.send_signal(signal.SIGSTOP)
    for _ in range(20):
        supervised.clock.now_s += 1.0
        supervised.delivery.poll()
    code = supervised.process.wait(timeout=60)
    supervised.let_die(1.0)

    assert code == -signal.SIGKILL
    assert supervised.starts == 2
    assert "no sign of life for 20 s" in supervised.said[0]
    supervised.process.kill()
    supervised.process.wait(timeout=60)
    supervised.delivery.close()


def test_silence_counts_only_while_the_trainer_itself_runs(tmp_path: Path) -> None:
    """After a laptop's sleep, all of its processes have been silent for hours."""
    supervised = Supervised(tmp_path, BEATS, silence_s=20.0)
    wait_for_report(supervised)
    for _ in range(10):
        supervised.clock.now_s += 3600.0
        supervised.delivery.poll()

    assert supervised.process.poll() is None
    assert supervised.said == []
    supervised.process.kill()
    supervised.process.wait(timeout=60)
    supervised.delivery.close()


def test_after_a_failed_restart_no_file_of_the_users_is_touched(tmp_path: Path) -> None:
    """The report pipe's old number was read and closed, although another file had it by then."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    supervised = Supervised(run_dir, DIES)
    old = supervised.delivery._reports
    (run_dir / "delivery.log").unlink()
    (run_dir / "delivery.log").mkdir()  # no log can be opened: the restart fails
    supervised.let_die(1.0)
    users, writing = os.pipe()
    if users != old:
        os.dup2(users, old)
    os.write(writing, b"the user's")
    for _ in range(10):
        supervised.clock.now_s += 100.0
        supervised.delivery.poll()
    supervised.delivery.wait(0.1, 0.0)
    supervised.delivery.close()
    supervised.delivery.close()

    assert os.read(old, 100) == b"the user's"
    assert "cannot be started" in supervised.said[-1]
    for number in {old, users, writing}:
        os.close(number)
