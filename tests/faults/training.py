"""A training process of a run: how it is started, and what it noted and said."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faults import claims, processes
from faults.processes import HungError, wait_until
from support.forks import Fork

if TYPE_CHECKING:
    from faults.rig import Bench
    from faults.trainer import Spec

ROOT = Path(__file__).resolve().parents[2]
FINISH_TIMEOUT_S = 20.0
END_S = 60.0  # beyond what `finish()` was given, on a machine that has other things to do
_UNFLUSHED_S = 1.0  # flush_interval_s is 0.2; a machine that is busy wakes the worker later
_FORK = f"""
import json, os, sys
os.setsid()  # Ctrl-C ends the rig, after the runs that it has begun
os.environ["{processes.MARK}"] = sys.argv[1]
from faults.trainer import Spec, main
main(Spec(**json.loads(sys.argv[2])))
"""


class Trainer:
    """A training process.

    Threads: one.
    """

    def __init__(self, bench: Bench, spec: Spec, number: int) -> None:
        self.bench = bench
        self.spec = spec
        self.ends_with = {0}
        """The exit codes that are right."""
        self.killed_s: float | None = None
        """When SIGKILL was sent (the monotonic clock, which processes share)."""
        self.said_path = bench.base / f"said-{number}.txt"
        with self.said_path.open("wb") as said:
            another = spec.method or bench.prefix or bench.variables or not bench.forks
            start = self._start if another else self._fork
            self.process: subprocess.Popen[Any] = start(said.fileno())

    def _start(self, said: int) -> subprocess.Popen[Any]:
        """Start an interpreter, where a fork would be another thing: another limit, a library."""
        return subprocess.Popen(
            [
                *self.bench.prefix,
                sys.executable,
                "-W",
                "error",
                str(ROOT / "tests/faults/trainer.py"),
                json.dumps(asdict(self.spec)),
            ],
            env=self.bench.environment(),
            cwd=self.bench.base,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C ends the rig, after the runs that it has begun
        )

    def _fork(self, said: int) -> subprocess.Popen[Any]:
        """Fork a process that has imported torch, as the start of one would: 1.4 s of CPU less."""
        environment = self.bench.environment()
        mark = environment.pop(processes.MARK)  # the server, which all runs share, must not bear it
        return Fork(
            _FORK,
            mark,
            json.dumps(asdict(self.spec)),
            warnings="error",
            environment=environment,
            cwd=self.bench.base,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )

    def is_fork_unreaped(self) -> bool:
        """Return whether it is a fork whose id can be nobody else's yet."""
        return isinstance(self.process, Fork) and self.process.returncode is None

    def notes(self, what: str | None = None) -> list[dict[str, Any]]:
        """Return what the trainer noted so far."""
        path = Path(self.spec.notes)
        if not path.exists():
            return []
        lines = path.read_bytes().split(b"\n")[:-1]
        return [n for line in lines if what in (None, (n := json.loads(line))["what"])]

    @property
    def said(self) -> str:
        """What it printed."""
        return self.said_path.read_text(errors="replace")

    @property
    def run_id(self) -> str | None:
        """The run's id, once the tracker is made."""
        found = self.notes("open")
        return found[0]["run_id"] if found else None

    @property
    def run_dir(self) -> Path:
        """The run's directory, as the rig sees it."""
        assert self.run_id is not None
        elsewhere = self.spec.options.get("directory")
        wandb = Path(elsewhere) / "wandb" if elsewhere else self.bench.wandb
        return wandb / "fasttrack" / self.run_id

    def await_note(self, what: str, timeout_s: float = 60.0, **facts: Any) -> dict[str, Any]:
        """Wait for a note with these facts; return it."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [n for n in self.notes(what) if all(n.get(k) == v for k, v in facts.items())]
            return bool(found) or self.process.poll() is not None

        wait_until(look, f"the trainer's note {what} {facts}", timeout_s)
        if not found:
            raise HungError(f"the trainer ended without {what} {facts}: {self.said[-2000:]}")
        return found[0]

    def await_row(self, row_id: int, timeout_s: float = 60.0) -> None:
        """Wait until a row was logged."""
        self.await_note("logged", timeout_s, id=row_id)

    def await_end(self, extra_s: float = 0.0) -> int:
        """Wait until the process has ended; return its exit code.

        Args:
            extra_s: seconds that the loop may take beyond its pace.

        Raises:
            HungError: it has not, within what `finish()` may take.
        """
        timeout_s = self.spec.rows * self.spec.pace_s + FINISH_TIMEOUT_S + END_S + extra_s
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise HungError(f"the trainer is still there: {self.said[-2000:]}") from error

    def stopped_s(self) -> float:
        """Return when it logged its last row, began to finish or was killed."""
        times_s = [float(n["time"]) for n in self.notes() if n["what"] != "finished"]
        return max([self.killed_s or 0.0, *times_s])

    def must_be_kept(self) -> set[int]:
        """Return the ids of the rows that the journal must have."""
        notes = self.notes()
        logged = [note for note in notes if note["what"] == "logged"]
        if self.killed_s is None:
            return {note["id"] for note in logged}
        last_kept = max((n["id"] for n in notes if n["what"] == "kept"), default=-1)
        early = self.killed_s - _UNFLUSHED_S
        return {n["id"] for n in logged if n["id"] <= last_kept or n["time"] < early}

    def may_be_kept(self) -> set[int]:
        """Return the ids of all rows that it may have logged: one more than it noted."""
        ids = {note["id"] for note in self.notes("logged")}
        return ids | {max(ids, default=self.spec.first - 1) + 1}

    def counted(self) -> int:
        """Return how many rows it said were lost."""
        return claims.said_lost(self.said)
