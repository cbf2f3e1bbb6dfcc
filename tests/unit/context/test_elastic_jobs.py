"""Processes that torchrun starts again find their run, and never another job's."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support.trackers import Trackers

from fasttrack.context.elastic_jobs import name_elastic_job, this_process
from fasttrack.context.job_runs import Job, JobRuns, current_job

if TYPE_CHECKING:
    from pathlib import Path

UUID = "37b88d87-6a15-43e3-ad28-a78c18dd9899"


class Group:
    """What the recording ranks of one job's groups do: look up, else begin, and note."""

    def __init__(self, directory: Path, *, by_user: bool = False) -> None:
        """Begin with no runs."""
        self.directory = directory
        self.by_user = by_user
        self.begun = 0
        self.over: set[str] = set()
        """Runs that have ended with success."""

    def track(self, process: str, restarts: int = 0, *, tags: str = "") -> str:
        """Return the id that a tracker in this process gets."""
        job = Job("key", (0, restarts), 0.0, process=process, named_by_user=self.by_user)
        runs = JobRuns(
            self.directory,
            job,
            project=("p",),
            details=(tags,),
            has_ended_well=self.over.__contains__,
        )
        found = runs.find()
        if found is None:
            self.begun += 1
        run_id = found or f"run{self.begun}"
        runs.note(run_id)
        return run_id


@pytest.mark.parametrize(
    ("environment", "key", "by_user"),
    [
        ({"TORCHELASTIC_RUN_ID": UUID}, f"torchelastic-{UUID}", False),
        ({"TORCHELASTIC_RUN_ID": "mine"}, "torchelastic-mine", True),
    ],
)
def test_a_job_is_named_by_torchruns_id(
    environment: dict[str, str], key: str, by_user: bool
) -> None:
    """One that torchrun made up is nobody else's."""
    assert name_elastic_job(environment) == (key, by_user)


def test_a_job_without_an_id_is_named_by_its_agent() -> None:
    """The same for all that it starts, another for another agent; none where nothing restarts."""
    ask = (
        "from fasttrack.context.elastic_jobs import name_elastic_job, this_process; import os;"
        "print(name_elastic_job(os.environ), this_process())"
    )
    environment = {
        **os.environ,
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_MAX_RESTARTS": "3",
    }
    first, second = (
        subprocess.run(
            [sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True
        ).stdout.rsplit(" ", 1)
        for _ in range(2)
    )

    assert first[0] == second[0]
    assert f"torchelastic-{this_process()}" in first[0]
    assert first[1] != second[1]
    assert name_elastic_job({"TORCHELASTIC_RUN_ID": "none"}) is None
    assert name_elastic_job({}) is None


def test_slurms_job_comes_first() -> None:
    """It knows more: that it was put back into the queue."""
    elastic = {"TORCHELASTIC_RUN_ID": "a/b", "TORCHELASTIC_RESTART_COUNT": "2"}
    found = current_job(elastic)

    assert current_job({**elastic, "SLURM_JOB_ID": "7"}) == Job("slurm-7", (0, 2), 0)
    assert found is not None
    assert (found.key, found.start, found.process) == ("torchelastic-a_b", (0, 2), this_process())


def test_every_process_that_records_goes_on_with_the_run(tmp_path: Path) -> None:
    """Whatever it is told of restarts: another node's agent counts anew."""
    group = Group(tmp_path)
    begun = group.track("a")

    assert [group.track("b", 1), group.track("c", 0), group.track("d", 2)] == [begun] * 3


def test_several_runs_of_one_process_stay_several(tmp_path: Path) -> None:
    """Told by their details, then by their order."""
    group = Group(tmp_path)
    first, second, third = group.track("a"), group.track("a"), group.track("a", tags="eval")

    assert len({first, second, third}) == 3
    assert group.track("b", 1, tags="eval") == third
    assert [group.track("b", 1), group.track("b", 1)] == [first, second]
    assert group.track("b", 1) == "run4"


def test_an_id_that_a_person_gives_to_another_job_begins_a_run_once_the_first_is_over(
    tmp_path: Path,
) -> None:
    """What it did not bring to its end it goes on with."""
    group = Group(tmp_path, by_user=True)
    first = group.track("a")
    assert group.track("b") == first  # a new node has the first rank
    group.over.add(first)
    second = group.track("c")

    assert second != first
    assert group.track("c") == "run3"
    assert [group.track("d", 1), group.track("d", 1)] == [second, "run3"]
    group.over.add("run3")
    assert group.track("e", 1) == second  # no first start: its agent has started ranks before


def test_tracker_goes_on_in_the_next_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the constructor; a job that is over gives its name to another."""
    process: Any = "fasttrack.context.job_runs.this_process"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    trackers = Trackers()
    first = trackers(resume_id="auto")
    first.finish(143, preempting=True)
    monkeypatch.setattr(process, lambda: "the next")
    second = trackers(resume_id="auto")
    second.finish()
    monkeypatch.setattr(process, lambda: "another job's")
    third = trackers(resume_id="auto")
    third.finish()

    assert second.get_run_id() == first.get_run_id() != third.get_run_id()
    assert f"going on with run {first.get_run_id()}" in capsys.readouterr().err
