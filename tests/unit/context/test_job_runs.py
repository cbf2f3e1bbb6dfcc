"""The requeued job finds its run: which one, when none, and never another job's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from support.journals import read_headers
from support.trackers import Trackers

from fasttrack.context.job_runs import Job, JobRuns, current_job

PROJECT = ("p", None)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set the command line."""

    def set_command(*argv: str) -> None:
        monkeypatch.setattr(sys, "argv", list(argv))

    set_command("train.py", "--lr", "1")
    return set_command


class Cluster:
    """What a job's trackers do: look up, else begin, and note."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.begun = 0

    def track(
        self,
        restarts: int,
        *,
        elastic: int = 0,
        began_s: float = 0.0,
        tags: str = "",
        project: str = "p",
        key: str = "c-7",
    ) -> str:
        """Return the id that a tracker of this start gets."""
        job = Job(key, (restarts, elastic), began_s)
        runs = JobRuns(self.directory, job, project=(project, None), details=(tags,))
        found = runs.find()
        if found is None:
            self.begun += 1
        run_id = found or f"run{self.begun}"
        runs.note(run_id)
        return run_id


@pytest.fixture
def cluster(tmp_path: Path, command: Any) -> Cluster:
    """A directory that all nodes share."""
    return Cluster(tmp_path)


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7"}, Job("slurm-7", (0, 0), 0)),
        (
            {
                "SLURM_JOB_ID": "9",
                "SLURM_ARRAY_JOB_ID": "8",
                "SLURM_ARRAY_TASK_ID": "0",
                "SLURM_CLUSTER_NAME": "big one/2",
                "SLURM_RESTART_COUNT": "2",
                "TORCHELASTIC_RESTART_COUNT": "1",
                "SLURM_JOB_START_TIME": "1700000000",
            },
            Job("big_one_2-8_0", (2, 1), 1_700_000_000),
        ),
        ({"SLURM_JOBID": "7", "SLURM_RESTART_COUNT": "x"}, Job("slurm-7", (0, 0), 0)),
    ],
)
def test_job_is_named_by_what_stays_when_it_is_requeued(
    environment: dict[str, str], job: Job | None
) -> None:
    """An array's task by the array's id and its own number: its job id is no name of its own."""
    assert current_job(environment) == job


def test_requeued_job_goes_on_with_its_run_every_time(cluster: Cluster) -> None:
    """And so do processes that torchrun starts again."""
    begun = cluster.track(0)

    later = [cluster.track(0, elastic=1), cluster.track(1), cluster.track(1, elastic=1)]
    later += [cluster.track(3)]

    assert later == [begun] * 4


def test_first_start_finds_nothing_even_where_an_earlier_job_had_the_id(cluster: Cluster) -> None:
    """Ids begin anew when a cluster is set up again."""
    begun = cluster.track(0)
    cluster.track(1)

    other = cluster.track(0)

    assert other != begun
    assert cluster.track(1) == other


def test_job_of_the_same_id_is_told_by_when_it_began_where_slurm_tells_that(
    cluster: Cluster,
) -> None:
    """Both were at their first start when they noted their runs."""
    begun = cluster.track(0, began_s=100)
    other = cluster.track(0, began_s=200)

    assert begun != other
    assert cluster.track(1, began_s=300) == other


def test_other_jobs_projects_and_command_lines_begin_runs_of_their_own(
    cluster: Cluster, command: Any
) -> None:
    """A loop over seeds in one job: what was skipped the second time is nobody's."""
    cluster.track(0)

    assert cluster.track(1, key="c-8") == "run2"
    assert cluster.track(1, project="q") == "run3"
    command("train.py", "--lr", "2")
    assert cluster.track(1) == "run4"


def test_several_runs_of_one_program_are_told_by_their_details_and_then_by_order(
    cluster: Cluster,
) -> None:
    """Two trackers at once; a name with the time of day in it does not matter."""
    first, second, third = cluster.track(0), cluster.track(0), cluster.track(0, tags="eval")

    assert len({first, second, third}) == 3
    assert cluster.track(1, tags="eval") == third
    assert cluster.track(1, tags="12:00") == first
    assert cluster.track(1) == second
    assert cluster.track(1) == "run4"


def test_damaged_lines_and_lines_of_old_are_passed_over(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill may tear one; a directory is used for years."""
    begun = cluster.track(0)
    (path,) = (cluster.directory / ".jobs").iterdir()
    noted = path.read_bytes()
    path.write_bytes(b'\xff\n[]\n{"start": 1}\n"x"\n' + noted + b'{"run_id": "to')
    assert cluster.track(1) == begun

    path.write_bytes(noted)
    monkeypatch.setattr("fasttrack.context.job_runs._LONGEST_S", -1.0)
    assert cluster.track(1) != begun


def test_tracker_finds_its_run_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the constructor: one run of two segments, which keeps its name."""
    trackers = Trackers()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    first = trackers(resume_id="auto")
    first.finish(143, preempting=True)
    assert "job" not in capsys.readouterr().err

    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    second = trackers(resume_id="auto")
    trackers.finish()

    assert second.get_run_id() == first.get_run_id()
    assert second.get_run_name() == first.get_run_name()
    run_dir = first.get_run_dir()
    assert run_dir is not None
    assert [header.resumed for header in read_headers(run_dir)] == [False, True]
    said = capsys.readouterr().err
    assert (
        f"going on with run {first.get_run_id()}, which an earlier start of this job began" in said
    )


def test_outside_a_job_and_on_other_ranks_auto_is_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new run each time; a rank that does not record knows of none."""
    trackers = Trackers()
    first, second = trackers(resume_id="auto"), trackers(resume_id="auto")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    other = trackers(resume_id="auto")
    trackers.finish()

    assert first.get_run_id() != second.get_run_id()
    assert other.get_run_id() is None


def test_requeued_job_that_finds_no_run_says_where_it_looked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """WANDB_DIR on a node's own disk, say."""
    trackers = Trackers()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    trackers(resume_id="auto")
    trackers.finish()

    said = capsys.readouterr().err
    assert "a new run begins: of an earlier start of this job" in said
    assert str(tmp_path / "wandb" / "fasttrack" / ".jobs" / "slurm-7.jsonl") in said


def test_directory_that_cannot_be_written_costs_the_note_not_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said what that means."""
    (tmp_path / "wandb" / "fasttrack").mkdir(parents=True)
    (tmp_path / "wandb" / "fasttrack" / ".jobs").write_text("a file")
    trackers = Trackers()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    tracker = trackers(resume_id="auto")

    assert tracker.is_active()
    trackers.finish()
    assert "this job, requeued, will not find its run" in capsys.readouterr().err
