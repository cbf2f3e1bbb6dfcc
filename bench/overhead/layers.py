"""What one sample of the norms of a model's layers costs the training thread.

`python -m bench.overhead.layers [--layers N] [--pairs N]`

Pairs of blocks, one of which samples: the call, and then 25 ms in which the thread computes in
Python, so that it feels whenever the worker holds the interpreter's lock. The gradients are made
anew in front of each block, as `zero_grad()` has it. The median difference, with its 95% interval,
is what a sample takes; every 100 steps of 1.7 ms it is that share of them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from bench.lib.arguments import make_parser
from bench.lib.isolation import private_home
from bench.lib.measure import US, describe_machine, machine, median_interval, table
from fasttrack import ExperimentTracker, Options

if TYPE_CHECKING:
    from collections.abc import Callable

_WIDTH = 8
_AFTER_S = 25e-3
_EVERY = 100  # steps
_STEP_S = 1.7e-3
_DRAIN_S = 0.02  # that the worker gets between blocks


def busy(rounds: int) -> None:
    """Keep the interpreter."""
    number = 0
    for each in range(rounds):
        number += each


def calibrated(seconds: float) -> int:
    """Return how many rounds take so long."""
    rounds = 100_000
    started_s = time.perf_counter()
    busy(rounds)
    return int(rounds * seconds / (time.perf_counter() - started_s))


def measure(layers: int, pairs: int) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return pairs of (the call, the whole block) in seconds: (with a sample, without)."""
    torch.set_num_threads(1)
    model = torch.nn.Sequential(
        *[torch.nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(layers)]
    )
    parameters = list(model.parameters())
    rounds = calibrated(_AFTER_S)

    def block(tracker: ExperimentTracker, step: int) -> tuple[float, float]:
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        began_s = time.perf_counter()
        tracker.log_training_step(0.5, step, 32, None, model)
        called_s = time.perf_counter()
        busy(rounds)
        ended_s = time.perf_counter()
        time.sleep(_DRAIN_S)
        return called_s - began_s, ended_s - began_s

    def make(every: int | None) -> ExperimentTracker:
        options = Options(
            backends=("none",), grad_norm="off", watch_nonfinite=True, layer_norms_every=every
        )
        return ExperimentTracker("bench", options=options)

    found = []
    with private_home(), make(_EVERY) as sampling, make(None) as other:
        kinds: list[Callable[[int], tuple[float, float]]] = [
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
    parser.add_argument("--pairs", type=int, default=200)
    arguments = parser.parse_args()
    details = machine()
    pairs = measure(arguments.layers, arguments.pairs)[5:]
    rows = []
    for name, place in (("the call", 0), ("with 25 ms behind it", 1)):
        added = median_interval([sampled[place] - plain[place] for sampled, plain in pairs])
        median_us, low_us, high_us = (seconds * US for seconds in added)
        share = added[0] / (_EVERY * _STEP_S)
        rows.append([name, f"{median_us:.0f} [{low_us:.0f}, {high_us:.0f}]", f"{share:.2%}"])
    print(f"{describe_machine(details)}; {arguments.layers} layers, {len(pairs)} pairs\n")
    print(table(("a sample adds to", "us [95%]", f"of {_EVERY} steps of 1.7 ms"), rows))


if __name__ == "__main__":
    main()
