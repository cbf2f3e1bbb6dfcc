"""What a change costs or saves: `python -m bench.against [REV] [--quick] [--only KEY,KEY]`.

Checks out the commit REV (by default the one that the limits refer to) into a worktree for as long
as it runs, and measures its build and this tree's side by side: where a turn can be short, both by
turns of 20 to 300 ms, else one right after the other, the other first in every second round. Both
are measured by this tree's bench. `--output DIR` writes the table and everything measured there.

A figure is the median over the rounds. A ratio is one plus a round's median difference of
neighbours, over its median of the old build; its interval is that of the sign test on the rounds,
below six rounds their range. About 6 minutes a round.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.against import long, short, whole
from bench.against.builds import builds, describe, same_commit
from bench.against.plan import FULL, QUICK
from bench.against.results import HEADINGS, REFERENCE, Results
from bench.lib.arguments import chosen, make_parser
from bench.lib.measure import describe_machine, machine, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from bench.against.builds import Build
    from bench.against.plan import Plan

PARTS: dict[str, Callable[[Sequence[Build], Plan, Results], None]] = {
    "calls": short.calls,
    "overhead": short.overhead,
    "worker": short.worker,
    "offline": whole.offline,
    "online": whole.online,
    "memory": whole.memory,
    "imports": whole.imports,
    "run": whole.run,
    "start": whole.start,
    "long": long.five,
    "many": long.many,
}
"""What a round measures: key to function."""


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("bench.against", __doc__)
    parser.add_argument("revision", nargs="?", default=REFERENCE, metavar="REV", help="the old one")
    parser.add_argument("--only", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--rounds", type=int, help=f"how many, by default {FULL.rounds}")
    parser.add_argument("--quick", action="store_true", help="one small round; shows that it runs")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write everything here, too")
    return parser


@contextlib.contextmanager
def tidied_up_at_sigterm() -> Iterator[None]:
    """Have SIGTERM end the program as Ctrl-C does: by an exception."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    keys = chosen(parser, "--only", arguments.only, PARTS)
    plan = QUICK if arguments.quick else FULL
    if arguments.rounds is not None:
        plan = plan._replace(rounds=arguments.rounds)
    try:
        compared = describe(arguments.revision)
        to_reference = same_commit(arguments.revision, REFERENCE)
    except RuntimeError as error:
        parser.error(str(error))
    details, results, start_s = machine(), Results(), time.monotonic()
    note = "; --quick: the figures mean little" if arguments.quick else ""

    def text(rounds: int) -> str:
        took = f"rounds: {rounds}, {time.monotonic() - start_s:.0f} s{note}"
        figures = table(HEADINGS, results.rows(to_reference=to_reference))
        failures = [f"Failed: {failure}" for failure in results.failures]
        head = f"{describe_machine(details)}; {took}"
        return "\n\n".join(
            [head, compared, figures, *failures, results.verdict(to_reference=to_reference)]
        )

    with tidied_up_at_sigterm(), builds(arguments.revision) as sides:
        for number in range(plan.rounds):
            _round(number, sides, keys, plan, results)
            if arguments.output:  # after each, so that an interrupted run leaves what it had
                everything = {"machine": details, "builds": compared, **results.as_json()}
                arguments.output.mkdir(parents=True, exist_ok=True)
                (arguments.output / "against.md").write_text(text(number + 1) + "\n")
                (arguments.output / "against.json").write_text(json.dumps(everything))
    print(text(plan.rounds))


def _round(
    number: int, sides: Sequence[Build], keys: Sequence[str], plan: Plan, results: Results
) -> None:
    """Measure everything once; a part that fails costs its figures of this round and no more."""
    results.new_first = bool(number % 2)
    in_order = sides[::-1] if results.new_first else sides
    for key in keys:
        where = f"round {number + 1}/{plan.rounds}: {key}"
        print(where, file=sys.stderr, flush=True)
        try:
            PARTS[key](in_order, plan, results)
        except RuntimeError as error:
            results.failures.append(f"{where}: {error}")
            print(f"{where} failed: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
