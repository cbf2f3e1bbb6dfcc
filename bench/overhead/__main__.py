"""What fasttrack costs the training process, resolved to microseconds: paired blocks.

`python -m bench.overhead [--quick] [--pairs N] [--only KEY,KEY] [--step 0.1|1|20] [--block-ms MS]`

blocks.py says how it is measured; the delivery process is in `python -m bench`. Last comes what it
costs, after a real step, to keep a CPU loss by `item()`, `detach().clone()` or `detach()`, and to
mark a phase.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.lib.arguments import chosen, make_parser
from bench.lib.isolation import private_home
from bench.lib.measure import US, describe_machine, machine, percentile, table
from bench.lib.ways import OVERHEAD
from bench.lib.workload import SIZES
from bench.overhead.blocks import FULL, QUICK, added, block_steps, measure
from bench.overhead.keeping import keeping_a_tensor
from bench.overhead.phases import marking_a_phase

if TYPE_CHECKING:
    from bench.overhead.blocks import Cost

_KEEP, _PHASE = "keep", "phase"
_PARTS = (_KEEP, _PHASE)
_HEADINGS = (
    "every step",
    "us per step [95%]",
    "worker CPU, us",
    "both, of the step",
    "step, ms",
    "call p50, us",
    "call p99, us",
)


def row(description: str, cost: Cost) -> list[str]:
    """Return one line of the table."""
    found = added(cost.pairs)
    median_us, low_us, high_us = (seconds * US for seconds in found.caller_s)
    return [
        description,
        f"{median_us:.1f} [{low_us:.1f}, {high_us:.1f}]",
        f"{found.worker_s * US:.1f}",
        f"{found.share:.2%}",
        f"{found.step_s * 1e3:.3f}",
        *(f"{percentile(cost.call_s, p) * US:.2f}" for p in (50, 99)),
    ]


def main() -> None:
    """Measure and print."""
    parser = make_parser("bench.overhead", __doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a minute; shows that it runs, no more"
    )
    parser.add_argument("--pairs", type=int, help="pairs of blocks per way")
    parser.add_argument("--step", choices=SIZES, default="1", help="about how many ms a step takes")
    parser.add_argument("--block-ms", type=float, default=10.0, help="about how long a block takes")
    parser.add_argument("--only", help=f"some of {','.join([*OVERHEAD, *_PARTS])}")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    if arguments.pairs is not None:
        plan = plan._replace(pairs=arguments.pairs)
    keys = chosen(parser, "--only", arguments.only, [*OVERHEAD, *_PARTS])

    details = machine()
    steps = block_steps(arguments.step, arguments.block_ms)
    plan = plan._replace(step_ms=arguments.step, block_steps=steps)
    kinds = [OVERHEAD[key] for key in keys if key not in _PARTS]
    with private_home():
        rows = [row(kind.description, measure(kind.build, plan)) for kind in kinds]
    print(f"{describe_machine(details)}; {plan.pairs} pairs of {plan.block_steps} steps\n")
    if rows:
        print(table(_HEADINGS, rows), end="\n\n")
    if _KEEP in keys:
        kept = keeping_a_tensor(plan.call_steps)
        print(table(("keeping a CPU loss, after a step", "p50, us", "p99, us"), kept), end="\n\n")
    if _PHASE in keys:
        with private_home():
            marked = marking_a_phase(plan.call_steps)
        print(table(("a block after a step", "p50, us", "p99, us"), marked))


if __name__ == "__main__":
    main()
