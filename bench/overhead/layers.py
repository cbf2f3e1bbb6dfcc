"""What one sample of the norms of a model's layers costs the training thread.

`python -m bench.overhead.layers [--layers N] [--width N] [--pairs N]`

Pairs of blocks, one of which samples: the call, and then 25 ms in which the thread computes in
Python, so that it feels whenever the worker holds the interpreter's lock. The worker is woken
behind the call in both blocks, so that what it does falls into them. The gradients are made anew in
front of each, as `zero_grad()` has it; a layer is a matrix of `--width` squared. The median
difference, with its 95% interval, is what a sample takes; every 100 steps of 1.7 ms it is that
share of them.

Other pairs compute without the interpreter behind the call: what a sample adds there is the
machine's doing, a core or a memory that two threads share, and no lock's. Last comes what the
worker's thread computes for a sample, with the lock or without.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, NamedTuple

import torch

from bench.lib.arguments import make_parser
from bench.lib.isolation import private_home
from bench.lib.measure import US, describe_machine, machine, median_interval, table
from fasttrack import ExperimentTracker, Options

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.worker.loop import Worker

_AFTER_S = 25e-3
_EVERY = 100  # steps
_STEP_S = 1.7e-3
_DRAIN_S = 0.02  # that the worker gets between blocks


def busy(rounds: int) -> None:
    """Keep the interpreter."""
    number = 0
    for each in range(rounds):
        number += each


def busy_with_lock() -> Callable[[], object]:
    """Return what takes the 25 ms in the interpreter."""
    rounds = 100_000
    started_s = time.perf_counter()
    busy(rounds)
    rounds = int(rounds * _AFTER_S / (time.perf_counter() - started_s))
    return lambda: busy(rounds)


def busy_without_lock() -> Callable[[], object]:
    """Return what takes them without it."""
    data = bytes(2**22)
    started_s = time.perf_counter()
    hashlib.sha256(data)
    data = bytes(int(len(data) * _AFTER_S / (time.perf_counter() - started_s)))
    return lambda: hashlib.sha256(data)


def worker_of(tracker: ExperimentTracker) -> Worker:
    """Return the tracker's worker."""
    assert tracker._engine is not None
    return tracker._engine._worker


def worker_cpu_s(tracker: ExperimentTracker) -> float:
    """Return what the tracker's worker has computed so far."""
    thread = worker_of(tracker)._thread
    assert thread is not None
    assert thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


class Block(NamedTuple):
    """What one took, in seconds."""

    call_s: float
    whole_s: float
    worker_s: float
    """That the worker's thread computed."""


def measure(layers: int, width: int, pairs: int, *, lock: bool) -> list[tuple[Block, Block]]:
    """Return pairs of blocks: with a sample, without.

    Args:
        layers: of the model.
        width: of each.
        pairs: how many.
        lock: whether what is behind the call needs the interpreter's lock.
    """
    torch.set_num_threads(1)
    model = torch.nn.Sequential(*[torch.nn.Linear(width, width, bias=False) for _ in range(layers)])
    parameters = list(model.parameters())
    behind = busy_with_lock() if lock else busy_without_lock()

    def block(tracker: ExperimentTracker, step: int) -> Block:
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        computed_s = worker_cpu_s(tracker)
        began_s = time.perf_counter()
        tracker.log_training_step(0.5, step, 32, None, model)
        called_s = time.perf_counter()
        worker_of(tracker).wake()  # in both: else a sample might be read outside of the block
        behind()
        ended_s = time.perf_counter()
        time.sleep(_DRAIN_S)
        worker_s = worker_cpu_s(tracker) - computed_s
        return Block(called_s - began_s, ended_s - began_s, worker_s)

    def make(every: int | None) -> ExperimentTracker:
        options = Options(
            backends=("none",), grad_norm="off", watch_nonfinite=True, layer_norms_every=every
        )
        return ExperimentTracker("bench", options=options)

    found = []
    with private_home(), make(_EVERY) as sampling, make(None) as other:
        kinds: list[Callable[[int], Block]] = [
            lambda step: block(sampling, step),
            lambda step: block(other, step),
        ]
        for number in range(pairs):
            order = (0, 1) if number % 2 else (1, 0)
            taken = {kind: kinds[kind](number * _EVERY) for kind in order}
            found.append((taken[0], taken[1]))
    return found


def main() -> None:
    """Measure and print."""
    parser = make_parser("bench.overhead.layers", __doc__)
    parser.add_argument("--layers", type=int, default=1000)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=200)
    arguments = parser.parse_args()
    details = machine()
    layers, width, count = arguments.layers, arguments.width, arguments.pairs
    pairs = measure(layers, width, count, lock=True)[5:]
    free = measure(layers, width, count, lock=False)[5:]
    rows = []
    for name, found, place in (
        ("the call", pairs, 0),
        ("the call and 25 ms in the interpreter", pairs, 1),
        ("the call and 25 ms without it", free, 1),
        ("the worker's thread", pairs, 2),
    ):
        added = median_interval([sampled[place] - plain[place] for sampled, plain in found])
        median_us, low_us, high_us = (seconds * US for seconds in added)
        share = added[0] / (_EVERY * _STEP_S)
        rows.append([name, f"{median_us:.0f} [{low_us:.0f}, {high_us:.0f}]", f"{share:.2%}"])
    shape = f"{layers} layers of {width} x {width}"
    print(f"{describe_machine(details)}; {shape}, {len(pairs)} pairs\n")
    print(table(("a sample adds to", "us [95%]", f"of {_EVERY} steps of 1.7 ms"), rows))


if __name__ == "__main__":
    main()
