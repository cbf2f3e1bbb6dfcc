"""Where the processes of a job find the run without a process group: one small file."""

from __future__ import annotations

import stat
import threading
import time
from pathlib import Path

import pytest

from fasttrack.nodes.meeting import Announcement, Meeting
from fasttrack.nodes.member import Member
from fasttrack.notices import Notices


def announcement(segment: str) -> Announcement:
    """Return what is told of the attempt that writes `segment`."""
    return Announcement(segment=segment, proof="", interval_s=15.0, time_s=time.time())


def test_the_note_is_its_owners_and_takes_the_place_of_that_of_a_run_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job may start its program again: nodes must not sample for a run that is no more."""
    monkeypatch.setenv("SLURM_JOB_ID", "21")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    meetings = [Meeting(tmp_path, None, time.time()) for _ in range(2)]
    meetings[1]._file = meetings[0]._file  # as another process has it, whose first tracker it is
    killed, running = meetings
    assert not killed.announce(announcement("killed"))

    assert not running.announce(announcement("running"))
    assert not running.announce(announcement("running")), "again, until there is a store"

    found = running.find()
    assert found is not None
    assert found.segment == "running"
    (note,) = (tmp_path / ".jobs").iterdir()
    assert stat.S_IMODE(note.stat().st_mode) == 0o600


def test_where_the_system_has_no_thread_left_the_run_goes_on_without_its_node(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tracker was made, and trains."""

    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    member = Member(Notices())
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        member.start()
    member.close()

    assert "this node is not sampled: can't start new thread" in capsys.readouterr().err
