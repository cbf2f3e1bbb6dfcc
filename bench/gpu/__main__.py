"""What fasttrack costs a training step on a GPU: `python -m bench.gpu [--quick] [--json FILE]`.

Two models, of steps of 1 to 2 ms (launching takes longer than computing) and of about 20 ms, and
each way of logging against none in one process, in pairs of blocks as in overhead/blocks.py. Times
are the device's: CUDA events at both ends of a block, and at every step for the percentiles. Calls
are timed on the host, while the device is busy with the step. Every way has a process of its own,
so that one that fails takes no other along.

Synchronisations are counted by `torch.cuda.set_sync_debug_mode("warn")`, by thread, less those of
training itself; that instrument is checked with an `item()` first. The worker's are its waits for
its own stream. Memory is the allocator's highest, above that without logging.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from bench.gpu.devices import LENGTHS, Cuda, Host
from bench.gpu.steps import KINDS, measure
from bench.lib.arguments import chosen, make_parser
from bench.lib.isolation import private_home
from bench.lib.measure import MS, describe_machine, machine, table
from bench.lib.processes import call_in_new_process

HEADINGS = (
    "way of logging",
    "step",
    "step longer by, us [95%]",
    "of the step",
    "step p50, ms (without)",
    "step p99, ms (without)",
    "call p50, us",
    "call p99, us",
    "syncs per logged step, caller",
    "other threads",
    "memory, MiB",
)


def row(found: dict[str, Any]) -> list[str]:
    """Return one line of the table."""
    added, low, high = found["added_us"]
    logged, without = found["steps_ms"]["with"], found["steps_ms"]["without"]
    syncs, (before_mb, after_mb) = found["syncs"], found["memory_mb"]
    if syncs is None:
        counted = ["-", "-"]
    else:
        own = syncs.get("MainThread", 0.0)
        counted = [f"{own:.2f}", f"{sum(syncs.values()) - own:.2f}"]
    return [
        KINDS[found["way"]].description,
        f"{found['length']}, {found['without_ms']:.2f} ms",
        f"{added:.1f} [{low:.1f}, {high:.1f}]",
        f"{added / MS / found['without_ms']:.2%}",
        *(f"{logged[i]:.3f} ({without[i]:.3f})" for i in (0, 1)),
        *(f"{us:.2f}" for us in found["call_us"]),
        *counted,
        "-" if after_mb is None else f"{after_mb - before_mb:+.2f}",
    ]


def main() -> int:
    """Measure and print; return the exit code."""
    parser = make_parser("bench.gpu", __doc__)
    parser.add_argument("--quick", action="store_true", help="shows that it runs, no more")
    parser.add_argument("--only", help=f"some of {','.join(KINDS)}")
    parser.add_argument("--json", type=Path, help="write everything here, too")
    parser.add_argument(
        "--device", default="cuda", choices=("cuda", "cpu"), help="cpu: shows that it runs, no more"
    )
    arguments = parser.parse_args()
    keys = chosen(parser, "--only", arguments.only, KINDS)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("No CUDA device here: nothing is measured.")
        return 0

    results: list[dict[str, Any]] = []
    failed = False
    with private_home():
        for length in LENGTHS:
            for key in keys:
                print(f"measuring {key}, {length}", file=sys.stderr, flush=True)
                try:
                    found = call_in_new_process(
                        measure, key, length, arguments.device, arguments.quick
                    )
                except RuntimeError as error:
                    failed = True
                    print(error, file=sys.stderr, flush=True)
                else:
                    results.append({"way": key, "length": length, **found})
    details = machine() | (Cuda() if arguments.device == "cuda" else Host()).describe()
    print(f"{describe_machine(details)}\n")
    print(table(HEADINGS, [row(found) for found in results]))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": details, "results": results}, indent=2))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
