"""Measure the targets: `python -m bench.targets [--quick] [--only KEY,KEY] [--json FILE]`.

Every target is measured in a process of its own, and where a figure depends on a process's history
(memory, start-up, the worker's bursts) each round is. Ratios and differences are taken within a
round. About 25 minutes; the machine should do nothing else.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from bench.lib.arguments import chosen, make_parser
from bench.lib.isolation import private_home
from bench.lib.measure import describe_machine, machine, table
from bench.lib.processes import call_in_new_process
from bench.targets import calls, delivery, process, throughput, worker
from bench.targets.figure import HEADINGS, Figure

if TYPE_CHECKING:
    from collections.abc import Callable

TARGETS: dict[str, Callable[[bool], list[Figure]]] = {
    "overhead": calls.paired_overhead,
    "calls": calls.calls,
    "bursts": throughput.bursts,
    "minute": throughput.minute,
    "gil": worker.gil,
    "gil-probe": worker.gil_probe,
    "memory": process.memory,
    "growth": process.growth,
    "constructor": process.constructor,
    "delivery": delivery.rate,
    "lag": delivery.lag,
}
"""What is measured: key to function. A target is one more function and one more line."""

_TIMEOUT_S = 3600.0


def measure(key: str, quick: bool) -> list[Figure]:
    """Return the figures of one target, measured in a process of its own."""
    print(f"measuring {key}", file=sys.stderr, flush=True)
    found = call_in_new_process(TARGETS[key], quick, timeout_s=_TIMEOUT_S)
    return [Figure(*cells) for cells in found]


def main() -> None:
    """Measure and print."""
    parser = make_parser("bench.targets", __doc__)
    parser.add_argument(
        "--quick", action="store_true", help="under a minute, two at a time; shows that it runs"
    )
    parser.add_argument("--only", help=f"some of {','.join(TARGETS)}")
    parser.add_argument("--json", type=Path, help="write everything here, too")
    arguments = parser.parse_args()
    keys = chosen(parser, "--only", arguments.only, TARGETS)

    details = machine()
    with private_home(), ThreadPoolExecutor(2 if arguments.quick else 1) as pool:
        results = list(pool.map(lambda key: measure(key, arguments.quick), keys))
    figures = [figure for found in results for figure in found]
    note = "; --quick: the figures mean nothing" if arguments.quick else ""
    print(f"{describe_machine(details)}{note}\n")
    print(table(HEADINGS, [figure.cells() for figure in figures]))
    judged = [figure for figure in figures if figure.met is not None]
    print(f"\n{sum(bool(figure.met) for figure in judged)} of {len(judged)} limits are met.")
    if arguments.json:
        everything = {
            "machine": details,
            "quick": arguments.quick,
            "figures": [{**figure._asdict(), "met": figure.met} for figure in figures],
        }
        arguments.json.write_text(json.dumps(everything, indent=2))


if __name__ == "__main__":
    main()
