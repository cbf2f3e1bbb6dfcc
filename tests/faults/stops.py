"""Processes that are stopped and go on, `fasttrack sync` that is killed, and clocks that step."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from faults.native import build
from faults.processes import HungError, wait_until
from faults.rig import Scenario

if TYPE_CHECKING:
    from faults.rig import Bench

_ROLES = ("trainer", "delivery", "core")
_SYNC_VICTIMS = (("command",), ("delivery",), ("core",), ("command", "delivery", "core"))
_SYNC_END_S = 120.0
_CLOCK = Path(__file__).parent / "clock.c"


def _stop(bench: Bench, role: str) -> None:
    """Stop one process in the middle; let it go on once the others have seen that."""
    mode = "offline" if bench.seed % 2 else "online"
    hold = bench.base / "go on"
    trainer = bench.train(mode=mode, hold=str(hold))
    bench.await_process(role)
    trainer.await_row(bench.random.randrange(5, bench.scenario.rows - 20))
    bench.kill(role, signal.SIGSTOP)
    if role == "trainer":
        hold.touch()
        bench.last_for(1.0)
    else:
        trainer.await_note("holding")
        hold.touch()
        trainer.await_note("finishing")
        bench.last_for(bench.random.choice((0.5, 2.0)))
    bench.kill(role, signal.SIGCONT)
    bench.fault_is_over()


def _kill_sync(bench: Bench) -> None:
    """Kill `fasttrack sync`, its delivery or its wandb-core, again and again, at seeded points."""
    trainer = bench.train(mode="offline")
    trainer.await_end()
    bench.await_nobody()
    for _ in range(3):
        before = bench.server.requests
        process = subprocess.Popen(
            [sys.executable, "-m", "fasttrack", "sync", bench.inside(trainer.run_dir)],
            env=bench.environment(),
            cwd=bench.base,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _await_request(bench, before + bench.random.randint(1, 12), process)
        for role in bench.random.choice(_SYNC_VICTIMS):
            bench.kill(role)
        try:
            process.wait(_SYNC_END_S)
        except subprocess.TimeoutExpired as error:
            raise HungError("sync, after what it had started was killed") from error
        bench.await_nobody()
    bench.fault_is_over()


def _await_request(bench: Bench, number: int, process: subprocess.Popen[bytes]) -> None:
    def came() -> bool:
        return bench.server.requests >= number or process.poll() is not None

    wait_until(came, "a request of sync's")


def _step_clock(bench: Bench, delta_s: int) -> None:
    """Step the wall clock of all processes of the run, but not the monotonic one."""
    library = build(_CLOCK, bench.base)
    amount = bench.base / "clock"
    amount.write_text("0")
    bench.variables |= {"LD_PRELOAD": str(library), "FAULTS_CLOCK": str(amount)}
    trainer = bench.train(mode="offline" if bench.seed % 2 else "online")
    trainer.await_row(bench.random.randrange(5, bench.scenario.rows - 20))
    scratch = bench.base / "clock.new"
    scratch.write_text(str(delta_s))
    scratch.replace(amount)
    trainer.await_end()
    jumps = [abs(b - a) for a, b in itertools.pairwise(_times_s(trainer.run_dir))]
    assert max(jumps) > abs(delta_s) / 2, "the clock did not step: the rig is broken"
    bench.fault_is_over()


def _times_s(run_dir: Path) -> list[float]:
    lines = (run_dir / "segment-0001.jsonl").read_bytes().splitlines()
    return [entry["time"] for line in lines if (entry := json.loads(line))["kind"] == "row"]


SCENARIOS = (
    *(
        Scenario(
            name=f"stop-{role}",
            family="stops",
            act=partial(_stop, role=role),
            promise="a process that stands still for a while loses and doubles nothing",
            fast=int(role == "delivery"),
        )
        for role in _ROLES
    ),
    Scenario(
        name="sync-killed",
        family="sync",
        act=_kill_sync,
        promise="sync may be killed anywhere and run again",
    ),
    *(
        Scenario(
            name=f"clock-{word}",
            family="clock",
            act=partial(_step_clock, delta_s=delta_s),
            promise="the wall clock may step",
            fast=int(delta_s < 0),
        )
        for word, delta_s in (("an-hour-back", -3600), ("a-day-ahead", 86_400))
    ),
)
