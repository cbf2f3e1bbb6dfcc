"""Kills of the trainer, of delivery and of wandb-core, alone and together."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from faults.rig import Scenario

if TYPE_CHECKING:
    from faults.rig import Bench

_VICTIMS = (
    ("trainer",),
    ("delivery",),
    ("core",),
    ("delivery", "core"),
    ("trainer", "delivery"),
    ("trainer", "core"),
    ("trainer", "delivery", "core"),
)


def _mode(bench: Bench) -> str:
    return "offline" if bench.seed % 2 else "online"


def _kill_starting(bench: Bench, victims: tuple[str, ...]) -> None:
    """Strike as soon as the first, or a seeded one, of the processes is there."""
    trainer = bench.train(mode=_mode(bench))
    gate = bench.random.choice(("journal", *{"delivery", *victims} - {"trainer"}))
    if gate == "journal":
        trainer.await_note("open")
    else:
        bench.await_process(gate)
    if "core" in victims and gate != "core" and "trainer" not in victims:
        bench.await_process("core")
    _strike(bench, victims)


def _kill_training(bench: Bench, victims: tuple[str, ...]) -> None:
    trainer = bench.train(mode=_mode(bench))
    trainer.await_row(bench.random.randrange(5, bench.scenario.rows - 5))
    if "core" in victims:
        bench.await_process("core")
    _strike(bench, victims)


def _kill_finishing(bench: Bench, victims: tuple[str, ...]) -> None:
    trainer = bench.train(mode=_mode(bench))
    trainer.await_note("finishing")
    _strike(bench, victims)


def _strike(bench: Bench, victims: tuple[str, ...]) -> None:
    order = list(victims)
    bench.random.shuffle(order)
    for role in order:
        bench.kill(role)
    bench.fault_is_over()


_FAST = {
    "starting": (("core",),),
    "training": (("delivery",), ("trainer", "delivery", "core")),
    "finishing": (("trainer", "core"),),
}
_PHASES = {"starting": _kill_starting, "training": _kill_training, "finishing": _kill_finishing}
SCENARIOS = tuple(
    Scenario(
        name=f"kill-{'+'.join(victims)}-{phase}",
        family=f"kills-{phase}",
        act=partial(act, victims=victims),
        promise="all that was on disk arrives, each row once",
        fast=int(victims in _FAST[phase]),
    )
    for victims in _VICTIMS
    for phase, act in _PHASES.items()
)
