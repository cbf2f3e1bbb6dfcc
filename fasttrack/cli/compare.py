"""`fasttrack compare`: in what runs differ."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fasttrack.cli.shared import dir_option, format_number, json_option, print_json
from fasttrack.journal.rows import spell_non_finite
from fasttrack.runs.local import find_runs
from fasttrack.runs.opened import Run
from fasttrack.views.comparison import ComparedMetric, ComparedSetting, compare_runs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fasttrack.journal.rows import Number
    from fasttrack.views.comparison import Comparison

_Compared = TypeVar("_Compared", ComparedSetting, ComparedMetric)
_MOST_LINES = 30  # of settings, and of metrics; of more there is a count, unless all are asked for
_WIDEST = 28  # letters of a setting's value; more of it is in --json


@click.command("compare")
@click.argument("texts", metavar="RUN RUN...", nargs=-1, required=True)
@click.option(
    "-m",
    "--metric",
    "patterns",
    multiple=True,
    help="Compare only metrics of this name (a pattern such as 'loss/*'). Repeat.",
)
@click.option(
    "--all", "shows_all", is_flag=True, help="Print all settings and metrics, however many."
)
@dir_option
@json_option
@click.pass_context
def compare(
    context: click.Context,
    texts: tuple[str, ...],
    patterns: tuple[str, ...],
    shows_all: bool,
    base: Path | None,
    as_json: bool,
) -> None:
    """Say in what runs differ, a line each: settings that are not alike, and metrics.

    A metric is compared by its last values; in brackets, by how much one exceeds that of the run
    that is named first. "-" stands where a run does not have the setting or metric.

    What all runs have, with other values, comes first; what only some have is behind it. Of runs
    that have little in common the first 30 settings and 30 metrics are printed, and the others
    counted: --all prints them, -m chooses metrics, and --json has all.

    --json prints an object: runs (list: run_id, name, project, state, directory), same_config
    (how many settings are alike), config (list of what is not: name, values, present), metrics
    (list: name, values, steps, deltas). Values are in the order of the runs; null where there is
    none, or no difference of finite numbers.
    """
    runs = [Run(local.directory) for local in find_runs(texts, base)]
    if len(runs) < 2:
        raise click.UsageError("name two different runs, or more", context)
    found = compare_runs(runs, patterns)
    if as_json:
        print_json(found.as_json())
    else:
        most = None if shows_all else _MOST_LINES
        _print(found, most, None if patterns else most)


def _print(found: Comparison, most_settings: int | None, most_metrics: int | None) -> None:
    heading = ["", *(run.id for run in found.runs)]
    facts = [["name", *(run.name or "-" for run in found.runs)]]
    facts.append(["state", *(run.state for run in found.runs)])
    settings = [_setting(one) for one in _shared_first(found.settings)[:most_settings]]
    metrics = [_metric(one) for one in _shared_first(found.metrics)[:most_metrics]]
    lines = [heading, *facts, *settings, *metrics]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heading))]
    _print_lines([heading, *facts], widths)
    rest = f"{found.same} settings are alike" if found.same else "none is alike"
    click.echo(f"config: {len(found.settings)} differ, {rest}")
    _print_lines(settings, widths)
    _print_rest(len(found.settings) - len(settings), "--all")
    click.echo(f"metrics: last values, and what they have over those of {found.runs[0].id}")
    _print_lines(metrics, widths)
    _print_rest(len(found.metrics) - len(metrics), "--all, or -m PATTERN")


def _shared_first(found: Sequence[_Compared]) -> list[_Compared]:
    """Return what all runs have before what some lack, else in the same order."""
    return sorted(found, key=lambda one: not one.is_shared)


def _print_rest(count: int, how: str) -> None:
    if count:
        click.echo(f"  and {count:,} more: {how}")


def _print_lines(lines: list[list[str]], widths: list[int]) -> None:
    for line in lines:
        cells = [f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)]
        click.echo("  ".join(["", *cells]).rstrip())


def _setting(one: ComparedSetting) -> list[str]:
    values = zip(one.values, one.present, strict=True)
    return [one.name, *(_short(value) if there else "-" for value, there in values)]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(spell_non_finite(value))
    text = " ".join(text.split())
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."


def _metric(one: ComparedMetric) -> list[str]:
    first, *others = zip(one.values, one.deltas, strict=True)
    return [one.name, _number(first[0]), *(_with_delta(*other) for other in others)]


def _number(value: Number | None) -> str:
    return "-" if value is None else format_number(value)


def _with_delta(value: Number | None, delta: Number | None) -> str:
    if delta is None:
        return _number(value)
    return f"{_number(value)} ({'+' if delta >= 0 else ''}{format_number(delta)})"
