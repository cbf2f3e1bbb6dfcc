"""What ways of logging cost a training loop, beside each other: `python -m bench [--quick]`.

Prints tables; `--output DIR` writes them there, with everything measured and two pictures. The
README.md in this folder says what each figure means.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.compare import BASELINE, DESCRIPTIONS, QUICK, SCENARIOS, run
from bench.measure import describe_machine, machine
from bench.peers import PEERS
from bench.pictures import draw_slowdown, draw_steps
from bench.report import as_json, markdown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.compare import Scenario

_MAIN = next(iter(SCENARIOS))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--quick", action="store_true", help=f"under two minutes: a short {_MAIN}, fewer peers"
    )
    parser.add_argument("--scenario", help=f"some of {','.join(SCENARIOS)}")
    parser.add_argument("--only", help=f"some of {','.join(DESCRIPTIONS)}; {BASELINE} always runs")
    parser.add_argument("--rounds", type=int, help="rounds of each scenario")
    parser.add_argument("--steps", type=int, help="steps of each measured loop, at most")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write everything here, too")
    return parser


def _chosen(
    parser: argparse.ArgumentParser, option: str, given: str | None, known: Iterable[str]
) -> list[str]:
    """Return those of `known` that were asked for; all of them where nothing was."""
    wanted = set(given.split(",") if given else known)
    if unknown := wanted - set(known):
        parser.error(f"{option}: no such key: {', '.join(sorted(unknown))}")
    return [key for key in known if key in wanted]


def _scenarios(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> dict[str, Scenario]:
    if arguments.quick:
        chosen = {_MAIN: QUICK}
    else:
        keys = _chosen(parser, "--scenario", arguments.scenario, SCENARIOS)
        chosen = {key: SCENARIOS[key] for key in keys}
    changes = {name: getattr(arguments, name) for name in ("rounds", "steps")}
    changes = {name: value for name, value in changes.items() if value is not None}
    return {key: replace(scenario, **changes) for key, scenario in chosen.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.output and find_spec("matplotlib") is None:
        parser.error("--output draws pictures; that needs matplotlib (pip install -e '.[bench]')")
    asked = _chosen(parser, "--only", arguments.only, DESCRIPTIONS)
    missing = [key for key in asked if key in PEERS and not PEERS[key].is_installed()]
    for key in missing:
        print(f"{key}: not installed, skipped (pip install -e '.[bench]')", flush=True)
    details, results = machine(), {}
    text = [describe_machine(details)]
    print(text[0], flush=True)
    for name, scenario in _scenarios(parser, arguments).items():
        # A way that was asked for by name runs in every scenario.
        ways = asked if arguments.only else scenario.ways
        keys = [key for key in dict.fromkeys((BASELINE, *ways)) if key not in missing]
        results[name] = run(scenario, keys)
        text.append(markdown(results[name]))
        print(f"\n{text[-1]}", flush=True)
        if arguments.output:  # after each, so that an interrupted run leaves what it had
            _write(arguments.output, text, as_json(results, details, missing))
            draw_slowdown(results[next(iter(results))], arguments.output / "slowdown.png")
            draw_steps(results[next(iter(results))], arguments.output / "steps.png")


def _write(directory: Path, text: list[str], everything: dict[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.md").write_text("\n\n".join(text) + "\n")
    (directory / "results.json").write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
