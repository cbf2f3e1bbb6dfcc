"""When does the Slurm job that this process belongs to end? Asked beside training."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_ANSWER_S = 60.0  # slurmctld is slow at times
_TIME_LEFT = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)")
_SHARE = 10  # of a short job's time, no more than a tenth is given up


class JobEnd:
    """Tell when it is time to stop before the job's time limit.

    Slurm tells the end in SLURM_JOB_END_TIME (newer versions) or answers `squeue`. As limits are
    changed (`scontrol update`), `squeue` is asked again before the answer is yes.

    Threads: one.
    """

    def __init__(
        self,
        before_s: float,
        environment: Mapping[str, str] = os.environ,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Ask nobody yet.

        Args:
            before_s: how long before the end to stop; at most a tenth of what is left at the first
                look.
            environment: the job's.
            clock: unix time in seconds.
        """
        self._before_s = before_s
        self._clock = clock
        task = environment.get("SLURM_ARRAY_TASK_ID")
        array = environment.get("SLURM_ARRAY_JOB_ID")
        # The id of an array is also that of its last task.
        self._job = f"{array}_{task}" if array and task else environment.get("SLURM_JOB_ID", "")
        told = environment.get("SLURM_JOB_END_TIME", "")
        self._end_s = float(told) if told.isdecimal() else None
        self._asking: subprocess.Popen[str] | None = None
        self._asked_s = 0.0
        self._asked_at_the_end = False
        if self._end_s is not None:
            self._limit_margin()

    def __call__(self) -> str | None:
        """Return "time_limit" if it is time to stop. Never waits; its first answers are None."""
        if self._asking is not None:
            self._hear()
        elif self._end_s is None and not self._asked_s:
            self._ask()
        elif self._end_s is not None and self._clock() >= self._end_s - self._before_s:
            if self._asked_at_the_end:
                return "time_limit"
            self._asked_at_the_end = True
            self._ask()
        return None

    def _ask(self) -> None:
        self._asked_s = self._clock()
        with contextlib.suppress(OSError):  # no squeue on this node, or in this container
            self._asking = subprocess.Popen(
                ["squeue", "-h", "-j", self._job, "-o", "%L"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )

    def _hear(self) -> None:
        assert self._asking is not None
        if self._asking.poll() is None:
            if self._clock() - self._asked_s >= _ANSWER_S:
                self.close()
            return
        answer, _ = self._asking.communicate()
        self._asking = None
        left_s = [seconds for line in answer.split() if (seconds := _seconds(line)) is not None]
        if not left_s:
            return  # UNLIMITED; or it does not know: then what was known counts
        first = self._end_s is None
        end_s = self._clock() + min(left_s)  # of the components of a heterogeneous job
        if self._end_s is not None and end_s > self._end_s + _ANSWER_S:
            self._asked_at_the_end = False  # the limit was raised
        self._end_s = end_s
        if first:
            self._limit_margin()

    def _limit_margin(self) -> None:
        assert self._end_s is not None
        self._before_s = min(self._before_s, max(0.0, self._end_s - self._clock()) / _SHARE)

    def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.kill()
            if self._asking.stdout is not None:
                self._asking.stdout.close()
            self._asking.wait()
            self._asking = None


def _seconds(text: str) -> float | None:
    """Return a time as squeue writes it ("1-02:03:04", "2:03:04", "3:04"); None for other words."""
    found = _TIME_LEFT.fullmatch(text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
