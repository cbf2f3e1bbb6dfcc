"""Signals, once and twice, with and without a handler of the script's, also inside `finish()`."""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING

from faults.rig import Scenario

if TYPE_CHECKING:
    from faults.rig import Bench

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def _send(bench: Bench, handler: str, twice: bool, phase: str) -> None:
    signum = bench.random.choice(_SIGNALS)
    trainer = bench.train(mode="offline" if bench.seed % 2 else "online", handler=handler)
    if phase == "finishing":
        trainer.await_note("finishing")
    else:
        trainer.await_row(bench.random.randrange(5, bench.scenario.rows - 20))
    bench.kill("trainer", signum)
    if twice:
        bench.kill("trainer", signum)
    bench.fault_is_over()
    # Whose handler it is decides how the script ends; in `finish()` it may be over already.
    ends = {"": -signum if signum == signal.SIGTERM else 130, "exit": 128 + signum}
    trainer.ends_with = {ends.get(handler, 0)}
    if signum == signal.SIGINT and not handler:
        trainer.ends_with = {-signum, 130, 1}
    if phase == "finishing":
        trainer.ends_with |= {0}
        if twice:  # Python, at its own end, has put back the system's default
            trainer.ends_with |= {-signum}
    if handler == "raise" and (twice or phase == "finishing"):
        trainer.ends_with |= {1}  # the second one is raised outside the script's `try`


SCENARIOS = tuple(
    Scenario(
        name=f"signal-{'twice' if twice else 'once'}-{handler or 'none'}-{phase}",
        family="signals",
        act=partial(_send, handler=handler, twice=twice, phase=phase),
        promise="what was logged is kept and arrives; the script ends as it would without us",
        fast=int(
            (twice, handler, phase)
            in (
                (True, "", "training"),
                (True, "flag", "training"),
                (False, "raise", "training"),
            )
        ),
    )
    for handler in ("", "flag", "raise", "exit")
    for twice in (False, True)
    for phase in ("training", "finishing")
)
