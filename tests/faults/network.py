"""Faults of the network and of the server: when delivery starts, in the middle, at the end."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal, cast

from faults.processes import wait_until
from faults.rig import Scenario
from support.wandb_server import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.rig import Bench

    Make = Callable[["Bench", "_Target"], Fault]

_Target = Literal["graphql", "file_stream", "any"]
_SEEN_S = 60.0
# Within the client's patience: it gives up on what is refused for longer than it tries.
_MOST_STRIKES = 4


def _strikes(bench: Bench) -> int:
    return bench.random.randint(1, _MOST_STRIKES)


def _status(statuses: tuple[int, ...], retry_after_s: int | None = None) -> Make:
    def make(bench: Bench, target: _Target) -> Fault:
        status = bench.random.choice(statuses)
        times = _strikes(bench)
        return Fault("status", target, status, times=times, retry_after_s=retry_after_s)

    return make


def _one_4xx(bench: Bench, target: _Target) -> Fault:
    return Fault("status", "file_stream", bench.random.choice((400, 403, 404, 409, 413)), times=1)


def _of_kind(kind: str) -> Make:
    def make(bench: Bench, target: _Target) -> Fault:
        return Fault(cast("Literal['reset']", kind), target, times=_strikes(bench))

    return make


_FAULTS: dict[str, Make | None] = {
    "refused": None,
    "reset": _of_kind("reset"),
    "hang": _of_kind("hang"),
    "slow": _of_kind("slow"),
    "429": _status((429,), retry_after_s=1),
    "5xx": _status((500, 502, 503, 504)),
    "4xx": _one_4xx,
    "lost-reply": _of_kind("lose_reply"),
    "cut-reply": _of_kind("cut_reply"),
}


def _act(bench: Bench, make: Make | None, phase: str) -> None:
    """Set the fault at its time; take it away once it has struck."""
    hold = bench.base / "go on"
    if phase == "starting":
        away = _strike(bench, make)
        trainer = bench.train(hold=str(hold))
        trainer.await_row(bench.random.randrange(5, bench.scenario.rows - 1))
    else:
        trainer = bench.train(hold=str(hold))
        wait_until(lambda: bench.server.runs, "the run at the server", _SEEN_S)
        if phase == "finishing":
            trainer.await_note("holding")
        else:
            trainer.await_row(bench.random.randrange(5, bench.scenario.rows - 1))
        away = _strike(bench, make)
    hold.touch()
    away()
    bench.fault_is_over()


def _strike(bench: Bench, make: Make | None) -> Callable[[], None]:
    """Begin; return what waits until the fault has struck, and ends it."""
    server = bench.server
    if make is None:
        server.stop()
        return server.start
    before = server.faults_struck
    targets: tuple[_Target, ...] = ("graphql", "file_stream", "any", "any")
    fault = make(bench, bench.random.choice(targets))
    server.fault = fault

    def end() -> None:
        # Once the trainer has ended there may be no more to come.
        def over() -> bool:
            return (
                server.faults_struck - before >= 1 or bench.trainers[-1].process.poll() is not None
            )

        wait_until(over, "a request that the fault strikes", _SEEN_S)
        if fault.kind == "hang":
            server.fault = None  # else: it goes on to strike as often as it is to

    return end


_FAST = {
    "refused": ("starting",),
    "hang": ("finishing",),
    "5xx": ("starting",),
    "4xx": ("training",),
    "lost-reply": ("training",),
    "cut-reply": ("finishing",),
}
SCENARIOS = tuple(
    Scenario(
        name=f"net-{kind}-{phase}",
        family=f"network-{phase}",
        act=partial(_act, make=make, phase=phase),
        promise="passing trouble: all arrives, each row once",
        fast=int(phase in _FAST.get(kind, ())),
    )
    for kind, make in _FAULTS.items()
    for phase in ("starting", "training", "finishing")
)
