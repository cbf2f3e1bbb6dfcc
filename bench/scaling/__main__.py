"""How many ranks the recording one can hear with `Options(ranks="all")`, and what that takes.

`python -m bench.scaling [--quick] [--real 2,4,8] [--ranks 8,100,1000,10000] [--seconds N]`

Real gloo ranks with real trackers first; then made-up ranks, whose messages are added up, and
travel through a real store. bench/scaling.md says what is measured and what is not.
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
from bench.scaling.synthetic import SyntheticRanks
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
    *("ranks", "silent", "a reading, s", "its CPU, s", "us a message"),
    *("server's CPU, s: reading", "sending"),
)
_TOGETHER = ("ranks", "CPU s/s, rank 0's thread", "CPU s/s, store's server", "from read to row, s")


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


def made_up_tables(ranks: Sequence[int], seconds: int, rounds: int) -> list[str]:
    """Return what it takes to add up what made-up ranks tell, to read it, and both together."""
    added, read, both = [], [], []
    for count in ranks:
        adding: dict[str, Any] = call_in_new_process(measure_adding_up, count, seconds)
        added.append(
            [
                f"{count:,}",
                f"{adding['messages']:,.0f}",
                f"{adding['bytes'] / 1e3:,.1f}",
                f"{adding['cpu_s']:.4f}",
                f"{adding['cpu_most_s']:.4f}",
                f"{adding['held_mb']:.1f}",
                f"{adding['named_after_s'] or '-'}",
                str(adding["wrongly_named"]),
            ]
        )
        for silent in (0, 1):
            reading: dict[str, Any] = call_in_new_process(measure_reading, count, rounds, silent)
            read.append(
                [
                    f"{count:,}",
                    str(silent),
                    f"{reading['read_wall_s']:.4f}",
                    f"{reading['read_cpu_s']:.4f}",
                    f"{1e6 * reading['read_wall_s'] / (count - 1 - silent):.1f}",
                    f"{reading['server_read_cpu_s']:.4f}",
                    f"{reading['server_sent_cpu_s']:.4f}",
                ]
            )
        every_s = SyntheticRanks(count).every_s
        served_s = reading["server_read_cpu_s"] + reading["server_sent_cpu_s"]
        both.append(
            [
                f"{count:,}",
                f"{adding['cpu_s'] + reading['read_cpu_s'] / every_s:.4f}",
                f"{served_s / every_s:.4f}",
                f"{reading['read_wall_s'] + adding['round_wall_s']:.3f}",
            ]
        )
    return [table(_ADDING_UP, added), table(_READING, read), table(_TOGETHER, both)]


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
    print(f"{describe_machine(machine())}; {seconds} s, {rounds} readings\n", flush=True)
    with private_home():
        if real:
            print(f"Real ranks\n\n{real_table(real, seconds)}\n", flush=True)
        if ranks:
            added, read, both = made_up_tables(ranks, seconds, rounds)
            print(f"Made-up ranks: messages that are here, decoded, added up, judged\n\n{added}\n")
            print(f"One message of each, read from a store on this machine\n\n{read}\n")
            print(f"Both together\n\n{both}")


if __name__ == "__main__":
    main()
