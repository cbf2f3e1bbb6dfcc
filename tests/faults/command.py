"""The command: which scenarios, which seeds, for how long; results accumulate in a JSON file."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faults.catalogue import SCENARIOS
from faults.rig import Outcome, Scenario, run_one
from faults.table import write_table

if TYPE_CHECKING:
    from collections.abc import Iterator

Results = dict[str, dict[str, Any]]


def main() -> int:
    """Run what is asked for; return 1 if anything promised did not hold."""
    arguments = _parse()
    chosen = [s for s in SCENARIOS.values() if _is_chosen(s, arguments.only)]
    if arguments.list:
        for scenario in chosen:
            print(f"{scenario.family:<12} {scenario.name:<40} {scenario.promise}")
        return 0
    results = Results() if arguments.output is None else load(arguments.output)
    lock = threading.Lock()
    until_s = time.monotonic() + 60 * arguments.minutes
    bad = 0

    def run(scenario: Scenario, seed: int) -> None:
        nonlocal bad
        if time.monotonic() > until_s:
            return
        outcome = run_one(scenario, seed, keep=arguments.keep)
        with lock:
            bad += scenario.promised and not outcome.clean and not outcome.skipped
            _say(outcome)
            results.setdefault(scenario.name, {})[str(seed)] = asdict(outcome)
            if arguments.output is not None:
                save(results, arguments.output)

    seeds = (
        [arguments.seed]
        if arguments.seed is not None
        else range(arguments.first, arguments.first + arguments.seeds)
    )
    with ThreadPoolExecutor(arguments.jobs) as pool:
        begun = [
            pool.submit(run, scenario, seed)
            for scenario, seed in _each(chosen, seeds)
            if arguments.again or str(seed) not in results.get(scenario.name, {})
        ]
        try:
            for future in begun:
                future.result()
        finally:  # Ctrl-C, or a fault of the rig: what runs comes to its end, nothing more begins
            pool.shutdown(cancel_futures=True)
    if arguments.table is not None:
        write_table(arguments.table, results)
    return int(bad > 0)


def _each(chosen: list[Scenario], seeds: Any) -> Iterator[tuple[Scenario, int]]:
    """Yield all pairs, seed by seed: if time runs out, every scenario has had its share."""
    for seed in seeds:
        for scenario in chosen:
            yield scenario, seed


def _is_chosen(scenario: Scenario, patterns: list[str]) -> bool:
    return not patterns or any(
        fnmatch.fnmatch(scenario.name, pattern) or fnmatch.fnmatch(scenario.family, pattern)
        for pattern in patterns
    )


def _say(outcome: Outcome) -> None:
    counts = " ".join(
        f"{name}={getattr(outcome, name)}"
        for name in (
            "rows",
            "lost",
            "doubled",
            "wrong",
            "hung",
            "raised",
            "said_wrongly",
            "counted",
            "recovery_s",
        )
    )
    word = f"skipped ({outcome.skipped})" if outcome.skipped else "ok" if outcome.clean else "BAD"
    print(f"{word:<4} {outcome.scenario} seed {outcome.seed}: {counts}", flush=True)
    if word == "BAD":
        for remark in outcome.remarks:
            print(f"     {remark}", flush=True)
        print(f"     again: {again(outcome)}", flush=True)


def again(outcome: Outcome) -> str:
    """Return the command that runs one seed again."""
    return f"python -m tests.faults --only {outcome.scenario} --seed {outcome.seed} --keep"


def load(path: Path) -> Results:
    """Return the results in a file; none where there is no file."""
    return json.loads(path.read_text()) if path.exists() else {}


def save(results: Results, path: Path) -> None:
    """Merge results into a file, in one step; another process may have added some."""
    merged = load(path)
    for name, by_seed in results.items():
        merged.setdefault(name, {}).update(by_seed)
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    scratch.write_text(json.dumps(merged, indent=1, sort_keys=True))
    scratch.replace(path)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="how many of each scenario")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="this seed only")
    parser.add_argument("--only", action="append", default=[], help="a family, or names with *")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--minutes", type=float, default=600.0, help="begin none after so many")
    parser.add_argument("--output", type=Path, help="JSON file that results are merged into")
    parser.add_argument("--again", action="store_true", help="also what the file has already")
    parser.add_argument("--keep", action="store_true", help="leave the runs' directories")
    parser.add_argument("--table", type=Path, help="README whose table to write")
    parser.add_argument("--list", action="store_true", help="only name the scenarios")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
