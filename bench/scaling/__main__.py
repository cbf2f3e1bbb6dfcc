"""How many ranks the recording one can hear with `Options(ranks="all")`, and what that takes.

`python -m bench.scaling [--quick] [--real 2,4,8] [--ranks 8,100,1000,10000] [--seconds N]`

Three tables. Real gloo ranks with real trackers; then made-up ranks, whose messages are added up,
and travel through a real store. bench/scaling.md says what is measured and what is not.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from bench.lib.arguments import make_parser
from bench.lib.isolation import private_home
from bench.lib.measure import describe_machine, machine, table
from bench.lib.processes import call_in_new_process
from bench.scaling.adding_up import measure_adding_up
from bench.scaling.real_ranks import be_rank, measure_real
from bench.scaling.through_store import measure_reading

if TYPE_CHECKING:
    from collections.abc import Sequence

_REAL = (
    *("ranks", "messages/s", "kB/s", "rank 0's thread, CPU s/s", "another's"),
    *("window's delay, s", "at most"),
)
_ADDING_UP = (
    *("ranks", "messages/s", "kB/s", "CPU s/s", "at most", "memory, MiB"),
    *("slow rank named after, s", "others named"),
)
_READING = (
    *("ranks", "silent", "reading, s", "its CPU, s", "us a message"),
    *("server's CPU, s: reading", "sending"),
)


def real_table(ranks: Sequence[int], seconds: int) -> str:
    """Return what real ranks cost."""
    rows = []
    for count in ranks:
        found = measure_real(count, seconds)
        rows.append(
            [
                str(count),
                f"{found['messages']:.1f}",
                f"{found['bytes'] / 1e3:.2f}",
                f"{found['cpu_s']:.4f}",
                f"{found['others_cpu_s']:.4f}",
                f"{found['delay_s']:.2f}",
                f"{found['delay_most_s']:.2f}",
            ]
        )
    return table(_REAL, rows)


def adding_up_table(ranks: Sequence[int], seconds: int) -> str:
    """Return what it takes to add up what made-up ranks tell."""
    rows = []
    for count in ranks:
        found: dict[str, Any] = call_in_new_process(measure_adding_up, count, seconds)
        rows.append(
            [
                f"{count:,}",
                f"{found['messages']:,}",
                f"{found['bytes'] / 1e3:,.1f}",
                f"{found['cpu_s']:.4f}",
                f"{found['cpu_most_s']:.4f}",
                f"{found['held_mb']:.1f}",
                str(found["named_after_s"] or "-"),
                str(found["wrongly_named"]),
            ]
        )
    return table(_ADDING_UP, rows)


def reading_table(ranks: Sequence[int], rounds: int) -> str:
    """Return what it takes to read what made-up ranks have sent."""
    rows = []
    for count in ranks:
        for silent in (0, 1):
            found = measure_reading(count, rounds, silent=silent)
            rows.append(
                [
                    f"{count:,}",
                    str(silent),
                    f"{found['read_wall_s']:.4f}",
                    f"{found['read_cpu_s']:.4f}",
                    f"{1e6 * found['read_wall_s'] / (count - 1 - silent):.0f}",
                    f"{found['server_read_cpu_s']:.4f}",
                    f"{found['server_sent_cpu_s']:.4f}",
                ]
            )
    return table(_READING, rows)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def main() -> None:
    """Measure and print."""
    parser = make_parser("bench.scaling", __doc__)
    parser.add_argument("--quick", action="store_true", help="seconds; shows that it runs, no more")
    parser.add_argument("--real", type=_numbers, default=[2, 4, 8], help="gloo ranks; '' for none")
    parser.add_argument("--ranks", type=_numbers, default=[8, 100, 1000, 10_000], help="made up")
    parser.add_argument("--seconds", type=int, default=30, help="of training, for each number")
    parser.add_argument("--rounds", type=int, default=5, help="of reading the store")
    parser.add_argument("--child", nargs=4, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        be_rank(*given.child)
    real, ranks, seconds, rounds = given.real, given.ranks, given.seconds, given.rounds
    if given.quick:
        real, ranks, seconds, rounds = [2], [8, 100], 3, 2
    print(f"{describe_machine(machine())}; {seconds} s, {rounds} rounds\n", flush=True)
    with private_home():
        if real:
            print("Real ranks\n")
            print(real_table(real, seconds), end="\n\n", flush=True)
        print("Made-up ranks: messages that are here, decoded, added up and judged\n")
        print(adding_up_table(ranks, seconds), end="\n\n", flush=True)
        print("Made-up ranks: messages of one second, read from a store on this machine\n")
        print(reading_table(ranks, rounds), flush=True)


if __name__ == "__main__":
    main()
