"""Which run is this job's? What `resume_id="auto"` finds when the job has been started again.

Each tracker made in a Slurm job notes its run, a line in `wandb/fasttrack/.jobs/`. A job keeps its
id (an array's task: the array's id and its own number) when it is requeued, and finds the line of
its earlier start. At its first start there is nothing to find: ids come again after a while, and
older lines are another job's.

So does each that is made in processes of torchrun outside Slurm; `elastic_jobs.py` says what names
such a job. Its processes are started again by an agent, or by another one on another node, and
what they are told of how often that was depends on the agent: so one start is one process here.

A job may make several runs, one after another or at once. A run is gone on with only by the same
command line, under the same project; of several such by that which has the same group, name and
tags, else in the order in which they were made.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fasttrack.context.elastic_jobs import name_elastic_job, this_process
from fasttrack.context.old_jobs import remove_old_notes
from fasttrack.redaction import redact_argv

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_DIRECTORY = ".jobs"
_FIELDS = {"run_id", "start", "began_s", "likeness", "details", "time_s"}
_LONGEST_S = (
    60 * 86400.0
)  # that a job waits and runs before it is requeued; older lines don't count


@dataclass(frozen=True, slots=True)
class Job:
    """A Slurm job, which may start more than once."""

    key: str
    """Names it; the same at each start."""
    start: tuple[int, int]
    """Which start this is: of the job, and within it of its processes by torchrun. From 0."""
    began_s: float
    """Unix time of this start; 0 where Slurm does not tell it (before 23.02)."""
    process: str | None = None
    """Names this process, where each process is a start of its own; None: `start` tells."""
    named_by_user: bool = False
    """Whether a person has chosen the key, who may use it again for another job."""


def current_job(environment: Mapping[str, str] = os.environ) -> Job | None:
    """Return the job that this process belongs to; None outside one."""
    job_id = environment.get("SLURM_JOB_ID") or environment.get("SLURM_JOBID")
    if not job_id:
        return _elastic_job(environment)
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    if array and task:  # each task has a job id, too, and the last one's is the array's
        job_id = f"{array}_{task}"
    key = f"{environment.get('SLURM_CLUSTER_NAME', 'slurm')}-{job_id}"
    return Job(
        key=_as_file_name(key),
        start=(
            _number(environment.get("SLURM_RESTART_COUNT")),  # not set at the first start
            _number(environment.get("TORCHELASTIC_RESTART_COUNT")),
        ),
        began_s=_number(environment.get("SLURM_JOB_START_TIME")),
    )


def _elastic_job(environment: Mapping[str, str]) -> Job | None:
    named = name_elastic_job(environment)
    if named is None:
        return None
    return Job(
        key=_as_file_name(named.key),
        start=(0, _number(environment.get("TORCHELASTIC_RESTART_COUNT"))),
        began_s=0.0,
        process=this_process(),
        named_by_user=named.by_user,
    )


def _as_file_name(key: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", key)[:200]


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0


class JobRuns:
    """The runs that a job's starts have noted.

    Threads: one.
    """

    def __init__(
        self,
        runs_directory: Path,
        job: Job,
        *,
        project: Sequence[Any],
        details: Sequence[Any],
        has_ended_well: Callable[[str], bool] = lambda run_id: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Look for and note one run.

        Args:
            runs_directory: `wandb/fasttrack`.
            job: this process's.
            project: where the run belongs: plain values.
            details: what else tells it from others of the job: plain values.
            has_ended_well: of a run's id, whether its newest attempt ended with success.
            clock: unix time.
        """
        self._path = runs_directory / _DIRECTORY / f"{job.key}.jsonl"
        self._job = job
        self._has_ended_well = has_ended_well
        self._clock = clock
        self._begins_job = False
        self._likeness = json.loads(json.dumps([*project, redact_argv(sys.argv)]))
        self._details = json.loads(json.dumps(details))

    def find(self) -> str | None:
        """Return the id of the run to go on with; None: begin a new one. Reads small files."""
        lines = self._read()
        known = [line for line in lines if line["likeness"] == self._likeness]
        taken = {line["run_id"] for line in known if self._is_this_start(line)}
        left = [
            line for line in known if self._is_earlier_start(line) and line["run_id"] not in taken
        ]
        if self._is_another_of_the_name(lines, left):
            left = []
        self._begins_job = not left and not any(map(self._is_this_start, lines))
        left.sort(key=lambda line: line["details"] != self._details)  # stable: else in order
        return str(left[0]["run_id"]) if left else None

    def _is_this_start(self, line: dict[str, Any]) -> bool:
        if self._job.process is not None:
            return bool(line.get("process") == self._job.process)
        return bool(line["start"] == list(self._job.start))

    def _is_earlier_start(self, line: dict[str, Any]) -> bool:
        if self._job.process is not None:
            return not self._is_this_start(line)
        return bool(line["start"] < list(self._job.start))

    def _is_another_of_the_name(
        self, lines: list[dict[str, Any]], left: list[dict[str, Any]]
    ) -> bool:
        """Return whether this job only has the name of one that is over: it did what it should."""
        if not self._job.named_by_user or self._job.start != (0, 0):
            return False
        if any(map(self._is_this_start, lines)):
            return False
        return all(self._has_ended_well(line["run_id"]) for line in left)

    def note(self, run_id: str) -> None:
        """Note that this start makes or goes on with the run. Blocks for one small file.

        A job's first note removes some of jobs that are long over, for a tenth of a second.

        Raises:
            OSError: it cannot be written.
        """
        line: dict[str, Any] = {
            "run_id": run_id,
            "start": self._job.start,
            "began_s": self._job.began_s,
            "likeness": self._likeness,
            "details": self._details,
            "time_s": self._clock(),
        }
        if self._job.process is not None:
            line |= {"process": self._job.process, "begins_job": self._begins_job}
            line["named_by_user"] = self._job.named_by_user
            self._begins_job = False
        noted = json.dumps(line).encode() + b"\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(file, noted)
            with contextlib.suppress(OSError):  # a node may fail before the disk has it
                os.fsync(file)
            written = os.fstat(file)
        finally:
            os.close(file)
        if written.st_size == len(noted):  # by two clocks: one of them may be far off
            now_s = min(line["time_s"], written.st_mtime)
            remove_old_notes(self._path.parent, now_s - _LONGEST_S)

    def describe(self, run_id: str, *, found: bool) -> str | None:
        """Return in words what became of the search; None at the job's first start."""
        if found:
            return f"going on with run {run_id}, which an earlier start of this job began"
        if self._job.start == (0, 0):
            return None
        return (
            "a new run begins: of an earlier start of this job, with this project and command "
            f"line, none is noted in {self._path}"
        )

    def _read(self) -> list[dict[str, Any]]:
        """Return what this job has noted, oldest first."""
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except OSError:  # not there, or not ours to read: there is nothing to go on with
            return []
        lines: list[dict[str, Any]] = []
        oldest_s = self._clock() - _LONGEST_S
        for raw in text.splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):  # torn by a kill
                line = json.loads(raw)
                if lines and self._is_another_job(lines[-1], line):
                    lines.clear()
                if line["time_s"] >= oldest_s and line.keys() >= _FIELDS:
                    lines.append(line)
        return lines

    def _is_another_job(self, before: dict[str, Any], line: dict[str, Any]) -> bool:
        """Return whether a job of the same name noted the line before: names come again."""
        if self._job.process is not None:
            return bool(line.get("begins_job"))
        same_start = line["start"][0] == before["start"][0]
        moved = same_start and line["began_s"] != before["began_s"]
        return moved or bool(line["start"] < before["start"])
