"""What ways of logging cost a training loop, beside each other: `python -m bench [--quick]`.

Prints tables; `--output DIR` writes them there, with everything measured and two pictures. The
README.md in this folder says what each figure means.
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.compare.child import KINDS
from bench.compare.pictures import draw_slowdown, draw_steps
from bench.compare.report import as_json, limits, markdown
from bench.compare.rounds import BASELINE, QUICK, SCENARIOS, run
from bench.lib.arguments import chosen, make_parser
from bench.lib.measure import describe_machine, machine

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from bench.compare.rounds import Scenario

_MAIN = next(iter(SCENARIOS))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("bench", __doc__)
    parser.add_argument(
        "--quick", action="store_true", help=f"under two minutes: a short {_MAIN}, fewer peers"
    )
    parser.add_argument("--scenario", help=f"some of {','.join(SCENARIOS)}")
    parser.add_argument("--only", help=f"some of {','.join(KINDS)}; {BASELINE} always runs")
    parser.add_argument("--rounds", type=int, help="rounds of each scenario")
    parser.add_argument("--steps", type=int, help="steps of each measured loop, at most")
    parser.add_argument("--busy", action="store_true", help="another process keeps a core busy")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write everything here, too")
    return parser


def _scenarios(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> dict[str, Scenario]:
    if arguments.quick:
        scenarios = {_MAIN: QUICK}
    else:
        keys = chosen(parser, "--scenario", arguments.scenario, SCENARIOS)
        scenarios = {key: SCENARIOS[key] for key in keys}
    changes = {name: getattr(arguments, name) for name in ("rounds", "steps")}
    changes = {name: value for name, value in changes.items() if value is not None}
    changes["busy"] = arguments.busy
    return {key: replace(scenario, **changes) for key, scenario in scenarios.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.output and find_spec("matplotlib") is None:
        parser.error("--output draws pictures; that needs matplotlib (pip install -e '.[bench]')")
    asked = chosen(parser, "--only", arguments.only, KINDS)
    missing = [key for key in asked if not KINDS[key].is_installed()]
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
    if judged := limits(results.values()):
        text.append(judged)
        print(f"\n{judged}")
        if arguments.output:
            _write(arguments.output, text, as_json(results, details, missing))


def _write(directory: Path, text: list[str], everything: dict[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.md").write_text("\n\n".join(text) + "\n")
    (directory / "results.json").write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
