"""One run of one scenario: a real trainer, faults that strike it, and what must hold afterwards.

A scenario is a value; `run_one` carries it out for a seed, which fixes what is struck and at which
row, and returns an `Outcome`. `Bench` is what a scenario's function has at hand.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faults import claims, processes
from faults.processes import HungError, wait_until
from faults.rows import Counts, FoundRow, compare, read_history, read_journal, read_offline
from faults.trainer import Spec
from faults.training import END_S, FINISH_TIMEOUT_S, ROOT, Trainer
from support.wandb_server import WandbServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.processes import Process

LEAVE_S = FINISH_TIMEOUT_S + END_S
_SYNC_TRIES = 4


@dataclass(frozen=True)
class Scenario:
    """A kind of fault."""

    name: str
    family: str
    act: Callable[[Bench], None]
    """Starts the trainer and strikes; what it leaves running is waited for."""
    promise: str
    """What must hold, in words for the table."""
    rows: int = 300
    fast: int = 1
    """How many seeds CI runs."""
    promised: bool = True
    """Whether the README promises it; else its outcome is documented, not judged."""


@dataclass
class Outcome:
    """What became of one run."""

    scenario: str
    seed: int
    rows: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    hung: int = 0
    said_wrongly: int = 0
    raised: int = 0
    """Trainers that ended otherwise than they would have without us."""
    recovery_s: float = 0.0
    counted: int = 0
    """Rows that are missing and that the trainer counted and said."""
    remarks: list[str] = field(default_factory=list)
    skipped: str = ""

    @property
    def clean(self) -> bool:
        """Whether all held."""
        bad = (self.lost, self.doubled, self.wrong, self.hung, self.said_wrongly, self.raised)
        return not any(bad)


class Skip(Exception):
    """The machine cannot do what the scenario needs."""


class Bench:
    """One run: its directory, its server, its processes and what is known of them.

    Threads: one.
    """

    def __init__(self, scenario: Scenario, seed: int, base: Path, server: WandbServer) -> None:
        self.scenario = scenario
        self.seed = seed
        self.random = random.Random(f"{scenario.name}:{seed}")
        self.base = base
        self.server = server
        self.mark = uuid.uuid4().hex
        self.outcome = Outcome(scenario.name, seed)
        self.trainers: list[Trainer] = []
        self.over_s = time.monotonic()
        """When the fault was over; from then on recovery is measured."""
        self.prefix: list[str] = []
        """What commands are run by, before their own words (a mount namespace, a limit)."""
        self.variables: dict[str, str] = {}
        """Environment variables beside the usual ones."""
        self.forks = True
        """Whether trainers may be forks, which begin to train a second sooner."""
        self.wandb = base / "wandb"
        """Where the run's files are, as the rig sees it."""
        self.directories = [self.wandb]
        """All such places: a run may be in several."""
        self.excused: set[int] = set()
        """Rows that need not arrive: somebody has tampered with their lines."""
        self.keepers: list[subprocess.Popen[str]] = []
        """Processes of the rig's own that must live as long as the run."""
        self.at_end: list[Callable[[], None]] = []
        """Done when the last process is gone."""
        self.may_lose = False
        """Whether rows may be lost if that is counted and said."""
        self.may_be_late = False
        """Whether rows may stand behind later ones, because they had to be sent again."""
        self.expects_delivery = True
        """Whether all of it must be delivered in the end."""

    # --- starting ---------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """Return the environment of all processes of the run."""
        home = self.base / "home"
        home.mkdir(exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LD_LIBRARY_PATH")}
        return {
            **kept,
            **self.server.env(),
            "HOME": str(home),
            "TMPDIR": str(self.base),
            "WANDB_DIR": str(self.base),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
            "PYTHONUNBUFFERED": "1",
            processes.MARK: self.mark,
            **self.variables,
        }

    def train(self, **spec: Any) -> Trainer:
        """Start a trainer; the arguments are fields of `Spec`."""
        number = len(self.trainers)
        options = {"finish_timeout_s": FINISH_TIMEOUT_S, **spec.pop("options", {})}
        made = Spec(
            notes=str(self.base / f"notes-{number}.jsonl"),
            **{"seed": self.seed, "rows": self.scenario.rows, "options": options, **spec},
        )
        self.trainers.append(Trainer(self, made, number))
        return self.trainers[-1]

    # --- looking ----------------------------------------------------------------------------------

    @property
    def run_dirs(self) -> list[Path]:
        """The journal directories."""
        found = [path for place in self.directories for path in (place / "fasttrack").glob("*")]
        return sorted(path for path in found if any(path.glob("segment-*.jsonl")))

    def inside(self, path: Path) -> str:
        """Return what the run's processes call a path that the rig sees."""
        if path.is_relative_to(self.wandb):
            return str(self.base / "wandb" / path.relative_to(self.wandb))
        return str(path)

    def processes(self, role: str | None = None) -> list[Process]:
        """Return the run's living processes, or those of one role; the rig's own are none."""
        keepers = {keeper.pid for keeper in self.keepers}
        forks = {trainer.process.pid for trainer in self.trainers if trainer.is_fork_unreaped()}
        return [p for p in processes.find(self.mark, role, forks) if p.pid not in keepers]

    def await_process(self, role: str, timeout_s: float = 60.0) -> Process:
        """Wait until there is a process of one role; return it."""
        found: list[Process] = []

        def look() -> bool:
            found[:] = self.processes(role)
            return bool(found)

        wait_until(look, f"a process: {role}", timeout_s)
        return found[0]

    def kill(self, role: str, signum: int = signal.SIGKILL) -> int:
        """Send a signal to all processes of one role; return how many there were."""
        if role == "trainer":
            now_s = time.monotonic()
            for trainer in self.trainers:
                if signum == signal.SIGKILL:
                    trainer.killed_s = now_s
                    trainer.ends_with |= {-signal.SIGKILL}
        return sum(processes.send(process, signum) for process in self.processes(role))

    def last_for(self, seconds: float) -> None:
        """Let a fault last: how long it does is part of the scenario, nothing is hoped for."""
        time.sleep(seconds)

    def fault_is_over(self) -> None:
        """Note that from now on all should become well."""
        self.over_s = time.monotonic()

    def remark(self, text: str) -> None:
        """Keep a remark for whoever looks at the outcome."""
        self.outcome.remarks.append(text)

    # --- ending -----------------------------------------------------------------------------------

    def settle(self) -> None:
        """Wait for the trainers and what they left, then deliver by hand until all is delivered."""
        for trainer in self.trainers:
            code = trainer.await_end()
            if code not in trainer.ends_with:
                self.outcome.raised += 1
                self.remark(f"the trainer ended with {code}: {trainer.said[-3000:]}")
        self.over_s = max(self.over_s, *(t.stopped_s() for t in self.trainers))
        for trainer in self.trainers:
            claims.check_trainer(self, trainer)
        self.await_nobody()
        for run_dir in self.run_dirs:
            claims.check_status(self, run_dir)
            self.sync(run_dir)
            claims.check_status(self, run_dir)
        self.outcome.recovery_s = round(time.monotonic() - self.over_s, 1)

    def await_nobody(self) -> None:
        """Wait until no process of the run is left; go on without those that stay."""
        try:
            wait_until(lambda: not self.processes(), "the last process leaves", LEAVE_S)
        except HungError as hung:
            self.outcome.hung += 1
            self.remark(f"{hung}; killed: {processes.kill(self.processes())}")

    def sync(self, run_dir: Path, tries: int = _SYNC_TRIES) -> bool:
        """Deliver one run by hand; return whether it came to be delivered."""
        for number in range(tries):
            result = self.command("sync", self.inside(run_dir), "--json")
            told = _parse(result.stdout)
            delivered = bool(told and all(run["delivered"] for run in told))
            if delivered != (result.returncode == 0):
                self.remark(f"sync ended with {result.returncode} and said {result.stdout[:300]}")
                self.outcome.said_wrongly += 1
            if delivered:
                claims.check_online(self, run_dir, "sync")
                return True
            said = " ".join(f"{result.stdout[-300:]} {result.stderr[-300:]}".split())
            self.remark(f"sync {number}: {said}")
        if self.expects_delivery:
            self.remark(f"{run_dir.name} was not delivered in {tries} tries")
            self.outcome.hung += 1
        return False

    def command(
        self, *arguments: str, timeout_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run one of fasttrack's commands to its end."""
        try:
            return subprocess.run(
                [*self.prefix, sys.executable, "-m", "fasttrack", *arguments],
                env=self.environment(),
                cwd=self.base,
                capture_output=True,
                text=True,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired as error:
            raise HungError(f"fasttrack {' '.join(arguments)}: not within {timeout_s} s") from error

    # --- judging ----------------------------------------------------------------------------------

    def journal(self, run_dir: Path) -> list[FoundRow]:
        """Return the rows in a run's journal."""
        return [row for row in read_journal(run_dir) if row.id not in self.excused]

    def online(self, run_id: str) -> list[FoundRow]:
        """Return the rows that the server has of a run."""
        run = self.server.runs.get(run_id)
        found = [] if run is None else read_history(run.history)
        return [row for row in found if row.id not in self.excused]

    def show(self, run_dir: Path) -> Any:
        """Return what `fasttrack show --json` says of a run."""
        return _parse(self.command("show", self.inside(run_dir), "--json").stdout)

    def offline(self, run_id: str) -> list[FoundRow]:
        """Return the rows in a run's offline directories."""
        places = [p for place in self.directories for p in place.glob(f"offline-run-*-{run_id}")]
        return [row for directory in sorted(places) for row in read_offline(directory)]

    def finish_lines(self, run_dir: Path) -> list[dict[str, Any]]:
        """Return the lines by which the attempts of a run ended in its journal."""
        lines = [line for p in run_dir.glob("segment-*") for line in p.read_bytes().splitlines()]
        entries = [_parse(line) for line in lines if b'"finish"' in line]
        return [entry for entry in entries if entry and entry["kind"] == "finish"]

    def require(self, holds: bool, otherwise: str) -> None:
        """Count it as raised, with a remark, unless something holds that concerns no row."""
        if not holds:
            self.outcome.raised += 1
            self.remark(otherwise)

    def judge(self) -> None:
        """Compare what was logged, the journals and the server; add it to the outcome."""
        run_ids = {run_dir.name for run_dir in self.run_dirs}
        gone = {trainer.run_id for trainer in self.trainers} - {None} - run_ids
        if self.expects_delivery:
            assert not gone, f"the journals of {gone} are gone"
        for run_id in sorted(run_ids):
            self._judge_run(run_id, [t for t in self.trainers if t.run_id == run_id])

    def _judge_run(self, run_id: str, trainers: list[Trainer]) -> None:
        places = [run_dir for run_dir in self.run_dirs if run_dir.name == run_id]
        journal = [row for place in places for row in self.journal(place)]
        kept = {row.id for row in journal}
        must = set().union(*(trainer.must_be_kept() for trainer in trainers))
        may = set().union(*(trainer.may_be_kept() for trainer in trainers))
        missing = sorted(must - kept - self.excused)
        counted = min(len(missing), sum(trainer.counted() for trainer in trainers))
        self.outcome.counted += counted
        counted = counted if self.may_lose else 0
        self.outcome.rows += len(kept)
        self.add(compare(kept & may, journal, self.seed), f"journal of {run_id}")
        if len(missing) > counted:
            self.outcome.lost += len(missing) - counted
            self.remark(f"not in the journal: {missing[:10]}, {len(missing)} rows")
        if self.expects_delivery:
            arrived = compare(kept, self.online(run_id), self.seed)
            self.add(arrived, f"server's run {run_id}")

    def add(self, counts: Counts, where: str) -> None:
        """Add what was found wrong at one place."""
        self.outcome.lost += len(counts.lost)
        self.outcome.doubled += len(counts.doubled)
        # What the client dropped, because the disk took nothing, can only be sent again behind.
        late = [] if self.may_lose or self.may_be_late else counts.late
        self.outcome.wrong += len({*counts.wrong, *late})
        if not counts.clean or counts.late:
            self.remark(
                f"{where}: lost {counts.lost[:10]}, doubled {counts.doubled[:10]}, "
                f"wrong {counts.wrong[:10]}, late {counts.late[:10]} (of {counts.checked} rows)"
            )


def run_one(scenario: Scenario, seed: int, *, keep: bool = False) -> Outcome:
    """Carry out one scenario with one seed; never raises for what the product did."""
    base = Path(tempfile.mkdtemp(prefix=f"faults-{scenario.name[:30]}-{seed}-"))
    with WandbServer() as server:
        bench = Bench(scenario, seed, base, server)
        try:
            scenario.act(bench)
            bench.settle()
            bench.judge()
        except HungError as hung:
            bench.outcome.hung += 1
            bench.remark(str(hung))
        except Skip as skip:
            bench.outcome.skipped = str(skip)
        except Exception:  # a mistake of the rig's: as bad as a fault that was found
            bench.outcome.hung += 1
            bench.remark(traceback.format_exc())
        finally:
            server.fault = None
            left = processes.kill(bench.processes())
            processes.kill(processes.find(bench.mark))  # the rig's own
            for keeper in bench.keepers:
                keeper.communicate()
            for clear_up in bench.at_end:
                clear_up()
            for trainer in bench.trainers:
                trainer.process.wait()
            if left:
                bench.remark(f"killed at the end: {left}")
    if keep:
        bench.remark(f"kept: {base}")
    else:
        shutil.rmtree(base, ignore_errors=True)
    return bench.outcome


def _parse(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
