"""Notes of jobs that are long over go when another job begins; all others stay."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from support.runs import HANG_GUARD_S, script_environment
from support.unprivileged import make_read_only, run_unprivileged

from fasttrack.context.job_runs import Job, JobRuns
from fasttrack.context.old_jobs import remove_old_notes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DAY_S = 86400.0
_LONG_AGO_S = 61 * _DAY_S
_MADE_UP = "torchelastic-37b88d87-6a15-43e3-ad28-a78c18dd9899"
_AN_AGENTS = "torchelastic-host-4711-123456"
_REMOVE = """
import sys
from pathlib import Path
from fasttrack.context.old_jobs import remove_old_notes
print("ready", flush=True)
sys.stdin.readline()
remove_old_notes(Path(sys.argv[1]), float(sys.argv[2]), patience_s=60.0)
"""


class Jobs:
    """The jobs of a directory, each with a run: `wandb/fasttrack` of `directory`."""

    def __init__(self, directory: Path) -> None:
        self.runs = directory
        self.notes = directory / ".jobs"

    def note(
        self,
        key: str,
        *,
        ago_s: float = 0.0,
        process: str | None = None,
        by_user: bool = False,
    ) -> Path:
        """Note a run, so many seconds ago by the clock and by the disk; return the file."""
        job = Job(key, (0, 0), 0.0, process=process, named_by_user=by_user)
        now_s = time.time() - ago_s
        runs = JobRuns(self.runs, job, project=("p",), details=(), clock=lambda: now_s)
        runs.find()
        runs.note("run")
        path = self.notes / f"{key}.jsonl"
        if ago_s > 0:
            os.utime(path, (now_s, now_s))
        return path

    def write(self, name: str, text: str) -> Path:
        """Have a file of old that something else has written."""
        path = self.notes / name
        path.write_text(text)
        old_s = time.time() - _LONG_AGO_S
        os.utime(path, (old_s, old_s))
        return path

    def names(self) -> set[str]:
        """What is there."""
        return {path.name for path in self.notes.iterdir()}


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    """Nobody's yet."""
    jobs = Jobs(tmp_path)
    jobs.notes.mkdir()
    return jobs


@pytest.fixture
def read_only(jobs: Jobs) -> Iterator[Path]:
    """A directory with a note of old, in which nothing can be removed."""
    jobs.note("slurm-1", ago_s=_LONG_AGO_S)
    yield from make_read_only(jobs.notes)


def test_a_job_that_begins_removes_the_notes_of_jobs_that_are_long_over(jobs: Jobs) -> None:
    """Slurm's, an id that torchrun made up, one of its agents', a note that a kill left."""
    jobs.note("c-7_1", ago_s=_LONG_AGO_S)
    jobs.note(_MADE_UP, ago_s=_LONG_AGO_S, process="host-1-2")
    jobs.note(_AN_AGENTS, ago_s=_LONG_AGO_S, process="host-3-4")
    jobs.write("c-7-0-0-0.json", f'{{"segment": "/x", "time_s": {time.time() - _LONG_AGO_S}}}')

    jobs.note("c-8")

    assert jobs.names() == {"c-8.jsonl"}


def test_what_may_still_be_asked_for_stays(jobs: Jobs) -> None:
    """By its lines or by the disk it is not old enough; or its name is a person's, or may be."""
    kept = {
        jobs.write("torchelastic-perhaps.jsonl", '{"time_s": 1, "process": "host-1-2"}'),
        jobs.note("c-1", ago_s=59 * _DAY_S),
        jobs.note("torchelastic-mine", ago_s=_LONG_AGO_S, process="host-1-2", by_user=True),
    }
    went_on = jobs.note("c-2", ago_s=_LONG_AGO_S)
    jobs.note("c-2")  # its second line removes none, either
    touched = jobs.note("c-3", ago_s=_LONG_AGO_S)
    os.utime(touched)
    old_s = time.time() - _LONG_AGO_S
    os.utime(went_on, (old_s, old_s))

    jobs.note("c-9")

    kept |= {went_on, touched, jobs.notes / "c-9.jsonl"}
    assert jobs.names() == {path.name for path in kept}


def test_only_a_jobs_first_note_looks_at_others(jobs: Jobs) -> None:
    """Its later starts cost what they did."""
    jobs.note("c-2")
    old = jobs.note("c-1", ago_s=_LONG_AGO_S)

    jobs.note("c-2")

    assert old.exists()


def test_a_clock_that_is_far_ahead_removes_nothing(jobs: Jobs) -> None:
    """The disk's own tells what time it is, too."""
    jobs.note("c-1", ago_s=_DAY_S)

    jobs.note("c-2", ago_s=-_LONG_AGO_S)

    assert jobs.names() == {"c-1.jsonl", "c-2.jsonl"}


def test_what_is_no_note_is_left_alone(jobs: Jobs, tmp_path: Path) -> None:
    """Torn, empty or another's; a pipe and a folder with such names; a link to a note of old."""
    for number, text in enumerate(("", '{"time_s": 1', "[]", '{"time_s": "1"}', "[" * 100_000)):
        jobs.write(f"c-{number}.jsonl", text)
    jobs.write("README", '{"time_s": 1}')
    os.mkfifo(jobs.notes / "pipe.jsonl")
    (jobs.notes / "folder.jsonl").mkdir()
    (tmp_path / "elsewhere").write_text('{"time_s": 1}')
    (jobs.notes / "link.jsonl").symlink_to(tmp_path / "elsewhere")
    (jobs.notes / "nowhere.json").symlink_to(tmp_path / "nothing")
    before = jobs.names()

    jobs.note("c-9")
    remove_old_notes(tmp_path / "nothing", 1.0)

    assert jobs.names() == before | {"c-9.jsonl"}


def test_a_note_of_old_that_ends_torn_is_old(jobs: Jobs) -> None:
    """Its job was killed while it wrote."""
    jobs.write("c-1.jsonl", '{"time_s": 1}\n{"time_s": 2, "run')

    jobs.note("c-2")

    assert jobs.names() == {"c-2.jsonl"}


def test_a_directory_in_which_nothing_can_be_removed_is_left(read_only: Path) -> None:
    """And nothing raises."""
    source = _REMOVE.replace("sys.stdin.readline()", "")

    result = run_unprivileged("-c", source, str(read_only), str(time.time()))

    assert (result.returncode, result.stdout) == (0, "ready\n"), result.stderr
    assert len(list(read_only.iterdir())) == 1


def test_two_processes_may_remove_at_once_and_each_time_some(jobs: Jobs) -> None:
    """Neither minds that a file has gone; what is left is for the next jobs."""
    for number in range(450):
        jobs.write(f"c-{number}.jsonl", '{"time_s": 1}')
    removers = [
        subprocess.Popen(
            [sys.executable, "-c", _REMOVE, str(jobs.notes), str(time.time())],
            env=script_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for remover in removers:
        assert remover.stdout is not None
        remover.stdout.readline()
    for remover in removers:
        remover.communicate("go\n", HANG_GUARD_S)

    assert [remover.returncode for remover in removers] == [0, 0]
    assert 50 <= len(jobs.names()) <= 250
    for _ in range(2):
        remove_old_notes(jobs.notes, time.time(), patience_s=60.0)
    assert jobs.names() == set()


def test_job_does_not_wait_for_a_disk_that_is_slow(jobs: Jobs) -> None:
    """What there was no time for is for the next one."""
    jobs.write("c-1.jsonl", '{"time_s": 1}')

    remove_old_notes(jobs.notes, time.time(), patience_s=0.0)

    assert jobs.names() == {"c-1.jsonl"}
