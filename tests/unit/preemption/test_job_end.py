"""When a Slurm job ends, by what Slurm tells; `squeue` is a script of the test's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.runs import wait_until

from fasttrack.preemption.job_end import JobEnd

_SQUEUE = """#!/bin/sh
echo "$@" >> {calls}
cat {answer}
"""


class Slurm:
    """What `squeue` answers, and a clock."""

    def __init__(self, directory: Path) -> None:
        self.now_s = 1_000_000.0
        self._calls = directory / "calls"
        self._answer = directory / "answer"
        program = directory / "squeue"
        program.write_text(_SQUEUE.format(calls=self._calls, answer=self._answer))
        program.chmod(0o755)

    def answers(self, text: str) -> None:
        """Have it print `text` from now on."""
        self._answer.write_text(text)

    @property
    def calls(self) -> list[str]:
        """The arguments of each call."""
        return self._calls.read_text().splitlines() if self._calls.exists() else []

    def job_end(self, before_s: float = 120.0, **environment: str) -> JobEnd:
        """Return the job's end by this Slurm."""
        given = {"SLURM_JOB_ID": "7", **environment}
        return JobEnd(before_s, given, clock=lambda: self.now_s)

    def hear(self, end: JobEnd, calls: int) -> str | None:
        """Look until `squeue` was called so often and has answered; return what is said then."""
        said: list[str | None] = []

        def heard() -> bool:
            said.append(end())
            return len(self.calls) >= calls and end._asking is None

        wait_until(heard)
        return said[-1] or end()


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """A Slurm of the test's own."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return Slurm(tmp_path)


@pytest.mark.parametrize(
    ("text", "left_s"),
    [("1-02:03:04\n", 93784), ("2:03:04\n", 7384), ("59:04\n", 3544), ("9:00:00\n10:00\n", 600)],
)
def test_time_left_is_read_as_squeue_writes_it(slurm: Slurm, text: str, left_s: int) -> None:
    """Of the components of a heterogeneous job the first to end counts."""
    slurm.answers(text)
    end = slurm.job_end(before_s=30.0)
    assert slurm.hear(end, calls=1) is None

    slurm.now_s += left_s - 31
    assert end() is None
    slurm.now_s += 2
    slurm.answers("0:29\n")
    assert slurm.hear(end, calls=2) == "time_limit"
    assert end() == "time_limit"
    assert slurm.calls == ["-h -j 7 -o %L"] * 2


def test_limit_that_was_raised_meanwhile_counts(slurm: Slurm) -> None:
    """`scontrol update TimeLimit=...`: it is asked again before the answer is yes."""
    slurm.answers("1:00:00\n")
    end = slurm.job_end()
    slurm.hear(end, calls=1)
    slurm.now_s += 3600 - 100
    slurm.answers("1:01:40\n")
    assert slurm.hear(end, calls=2) is None

    slurm.now_s += 3700 - 121
    assert end() is None
    slurm.now_s += 2
    slurm.answers("1:59\n")
    assert slurm.hear(end, calls=3) == "time_limit"


def test_end_that_the_environment_tells_needs_no_question_before_it_is_near(slurm: Slurm) -> None:
    """Slurm since 23.02. Where squeue does not answer then, what was told counts."""
    slurm.answers("slurm_load_jobs error: Invalid job id specified\n")
    end = slurm.job_end(SLURM_JOB_END_TIME=str(int(slurm.now_s) + 7200))
    assert end() is None
    assert slurm.calls == []

    slurm.now_s += 7200 - 119
    assert slurm.hear(end, calls=1) == "time_limit"


def test_short_job_gives_up_a_tenth_of_its_time(slurm: Slurm) -> None:
    """Else a job of two minutes would stop at once."""
    end = slurm.job_end(SLURM_JOB_END_TIME=str(int(slurm.now_s) + 100))
    slurm.answers("0:09\n")
    slurm.now_s += 89
    assert end() is None
    slurm.now_s += 2
    assert slurm.hear(end, calls=1) == "time_limit"


@pytest.mark.parametrize("text", ["UNLIMITED\n", "NOT_SET\n", "INVALID\n", ""])
def test_job_without_an_end_is_never_over(slurm: Slurm, text: str) -> None:
    """It is asked once."""
    slurm.answers(text)
    end = slurm.job_end()
    assert slurm.hear(end, calls=1) is None

    slurm.now_s += 10**7
    assert [end(), end()] == [None, None]
    assert len(slurm.calls) == 1


def test_task_of_an_array_is_asked_for_by_the_arrays_id_and_its_number(slurm: Slurm) -> None:
    """The array's id alone means all tasks, and is also the job id of the last."""
    slurm.answers("10:00\n")
    slurm.hear(slurm.job_end(SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="3"), calls=1)

    assert slurm.calls == ["-h -j 7_3 -o %L"]


def test_where_there_is_no_squeue_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container, say."""
    monkeypatch.setenv("PATH", str(tmp_path))
    end = JobEnd(120.0, {"SLURM_JOB_ID": "7"})

    assert [end(), end(), end()] == [None] * 3


def test_squeue_that_does_not_answer_is_given_up_on(slurm: Slurm, tmp_path: Path) -> None:
    """slurmctld may be away for a while."""
    os.mkfifo(tmp_path / "answer")  # nobody writes
    end = slurm.job_end()
    end()
    asking = end._asking
    assert asking is not None
    slurm.now_s += 61
    end()

    assert end._asking is None
    assert asking.returncode is not None
    end.close()
