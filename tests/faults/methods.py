"""Training functions in children that multiprocessing starts, by every method."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from faults.rig import Scenario

if TYPE_CHECKING:
    from faults.rig import Bench

_CODES = {"finish": 0, "return": 0, "raise": 1, "exit": 3}


def _start(bench: Bench, method: str) -> None:
    """Train in a child that finishes, returns, raises or exits, without or with `finish()`."""
    ending = bench.random.choice(tuple(_CODES))
    mode = "offline" if bench.seed % 2 else "online"
    trainer = bench.train(mode=mode, method=method, ending=ending, flush_every=0)
    trainer.await_end()
    code = trainer.await_note("child")["code"]
    bench.require(code == _CODES[ending], f"the child ended with {code}, not {_CODES[ending]}")
    finish = bench.finish_lines(trainer.run_dir)
    told = [line["exit_code"] for line in finish]
    bench.require(told == [_CODES[ending]], f"{ending}: the journal's end says {told}")
    bench.fault_is_over()


SCENARIOS = tuple(
    Scenario(
        name=f"method-{method}",
        family="methods",
        act=partial(_start, method=method),
        promise="a child's rows arrive, its exit code is the true one",
        rows=60,
        fast=int(method in ("fork", "spawn")),
    )
    for method in (
        "fork",
        "spawn",
        "forkserver",
        "torch-fork",
        "torch-spawn",
        "torch-forkserver",
    )
)
