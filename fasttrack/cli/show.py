"""`fasttrack show`: everything that is known of one run."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from fasttrack.cli.shared import (
    dir_option,
    format_number,
    format_time,
    json_option,
    make_console,
    print_json,
    warn_of_damage,
)
from fasttrack.journal.alerts import ASKED
from fasttrack.journal.hardware import tells_of_node
from fasttrack.journal.rows import spell_non_finite
from fasttrack.runs.local import find_run
from fasttrack.runs.terminal import leet_command
from fasttrack.views.goodput import tell_goodput
from fasttrack.views.report import flatten, read_report
from fasttrack.views.speed import tell_speed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rich.console import Console

    from fasttrack.runs.alerts import RunAlert
    from fasttrack.runs.flights import FlightDump
    from fasttrack.runs.media import MediaOfKind
    from fasttrack.runs.status import DeliveryStatus
    from fasttrack.runs.summary import Summary
    from fasttrack.views.report import LoggedArtifact, Report

_HEADER_FACTS = ("tags", "group", "notes", "mode", "host", "pid", "world_size", "argv", "cwd")
_WIDEST_FACT = 30  # a longer name has a line of its own: broken, it could not be copied
_SPARKLINE, _NARROWEST_SPARKLINE = 16, 9  # letters; ours fit 80 columns
_UNBROKEN = 100_000  # columns, where there is no terminal: a broken path cannot be searched for
_MOST_OF_NODES = 40  # metrics of nodes' hardware; of more there is a count
_NUMBERS = "{:>8} {:>10} {:>10} {:>10}  "


@click.command("show")
@click.argument("text", metavar="RUN")
@dir_option
@json_option
def show(text: str, base: Path | None, as_json: bool) -> None:
    """Show one run: what it was, what of it is delivered, and how its metrics went.

    A metric's course is drawn from the means of neighbouring values; "!" stands where one of them
    is NaN or infinite. Least and greatest are those of its finite values. Nested configuration is
    shown under dotted names, as W&B does. More than 40 metrics of nodes' hardware are only counted.
    "in a terminal" is the command by which W&B's client draws the run there, live, without account
    or network. "goodput" is the share of its time that trained steps whose result was kept, with
    what took the rest. The verdict is there where the wait for data was marked
    (tracker.data(loader)), or all ranks are told of (Options(ranks="all")): a wait of 20% of the
    time or more bounds a run. The latter have a line "ranks": which are missing, and which held
    the others up.

    --json prints an object: the keys of 'fasttrack runs --json', then header (as recorded),
    metadata (or null), config, artifacts (list: attempt, number, type, name, aliases, directory,
    files, size_bytes, step, time, delivery), media (kind -> count, and of the newest name, step,
    attempt, time, files), alerts (list: time, level, title, text, kind, step,
    attempt, told), flights (list: attempt, number, reason, error, step, steps, time, file),
    segments (list: attempt, rows, server, offline; the
    last two are proofs or null; of the first backend, those of each are in backends),
    offline_directories, bad_lines, damage (the first of them), goodput (share, wall_s, steps,
    kept_steps, lost_steps, kept_s, lost_s, pauses, pause_s, restarts, restart_s, down_s,
    starting_s, ending_s, all_rows, and attempts, a list of the same), ranks (ranks, missing_ranks,
    missing, untold, stragglers (list: where, what, first_step, last_step), one_offs, data_pct,
    data_rank, data_rank_pct, others_pct, others_rank, others_rank_data_pct; or null), verdict
    (bound_by: "data", "others" or "compute"; data_pct, others_pct, ranks, rank, rank_data_pct,
    of_all; or null), and metrics (name -> count,
    non_finite, last, min, max).
    """
    run = find_run(text, base)
    report = read_report(run)
    if as_json:
        print_json(report.as_json())
    else:
        _print(report, leet_command(run))
    warn_of_damage([run])


def _print(report: Report, command: str | None) -> None:
    console = make_console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNBROKEN
    overview = report.overview
    status = overview.status
    ended = "" if status.exit_code is None else f" (exit code {status.exit_code})"
    header = {} if report.header is None else asdict(report.header)
    _print_facts(
        console,
        f"run {overview.run_id}",
        {
            "name": overview.name,
            "project": overview.project,
            "entity": overview.entity,
            "state": status.word + ended,
            "started": format_time(overview.started_s),
            "attempts": len(overview.delivery.segments),
            "rows": overview.delivery.rows,
            "directory": overview.directory,
            **{name: header.get(name) for name in _HEADER_FACTS},
            **tell_speed(report.ranks, report.verdict, status),
        },
    )
    delivery = {**_delivery_facts(overview.delivery), "in a terminal": command}
    _print_facts(console, "delivery", delivery)
    _print_facts(console, "goodput", tell_goodput(report.goodput))
    _print_facts(console, "metadata", flatten(report.metadata.values if report.metadata else {}))
    _print_facts(console, "config", flatten(report.config))
    _print_facts(console, "artifacts", dict(map(_artifact_fact, report.artifacts)))
    _print_facts(console, "media", dict(map(_media_fact, report.media.items())))
    _print_facts(console, "alerts", dict(map(_alert_fact, enumerate(report.alerts, 1))))
    _print_facts(console, "flight recorder", dict(map(_flight_fact, report.flights)))
    _print_metrics(console, report.metrics)


def _delivery_facts(delivery: DeliveryStatus) -> dict[str, object]:
    several = len(delivery.backends) > 1
    words = ", ".join(f"{one.backend}: {one.word}" for one in delivery.backends)
    facts: dict[str, object] = {"delivered": words if several else delivery.word}
    for one in delivery.backends:
        before = f"{one.backend} " if several else ""
        facts[f"{before}url"] = one.url
        facts[f"{before}directory"] = one.directory
        for segment in one.segments:
            proofs = {one.place: segment.proof, "offline": segment.offline_proof}
            told = [f"{place}: {proof}" for place, proof in proofs.items() if proof]
            rows = f"{segment.rows} rows; {'; '.join(told) or 'nothing is proven'}"
            facts[f"{before}attempt {segment.attempt}"] = rows
    return facts


def _artifact_fact(logged: LoggedArtifact) -> tuple[str, str]:
    artifact = logged.artifact
    return f"{logged.attempt}.{artifact.number}", (
        f"{artifact.name} ({artifact.type}; {', '.join(artifact.aliases)}), "
        f"{artifact.files} files, {artifact.size_bytes} bytes; "
        f"{logged.delivery or 'not delivered'}"
    )


def _media_fact(of_kind: tuple[str, MediaOfKind]) -> tuple[str, str]:
    kind, found = of_kind
    newest = found.newest
    where = "" if newest.path is None else f", {newest.path}"
    more = f" and {len(newest.paths) - 1} more" if len(newest.paths) > 1 else ""
    return kind, f"{found.count}; the newest is {newest.name} at step {newest.step}{where}{more}"


def _alert_fact(numbered: tuple[int, RunAlert]) -> tuple[str, str]:
    number, alert = numbered
    told = ", ".join(f"{name}: {how}" for name, how in alert.told.items())
    when = format_time(alert.time_s, "%Y-%m-%d %H:%M:%S")
    words = alert.text
    if alert.kind == ASKED:  # whose text may be nothing without its title
        words = ": ".join(part for part in (alert.title, alert.text) if part)
    return f"{number} {alert.level}", f"{when} {words}" + (f" ({told})" if told else "")


def _flight_fact(flight: FlightDump) -> tuple[str, str]:
    at = "" if flight.step is None else f" at step {flight.step}"
    why = f": {flight.error}" if flight.error else ""
    text = f"{flight.reason}{at}{why}; the last {flight.steps} steps are in {flight.path.name}"
    return f"{flight.attempt}.{flight.number}", text


def _print_facts(console: Console, title: str, facts: Mapping[str, object]) -> None:
    from rich.table import Table
    from rich.text import Text

    told = {name: value for name, value in facts.items() if value is not None}
    if not told:
        return
    fitting = [len(name) for name in told if len(name) <= _WIDEST_FACT]
    margin = max(fitting, default=0) + 4
    console.print(title, style="bold")
    for name, value in told.items():
        plain = isinstance(value, (str, int, float))
        text = str(value) if plain else json.dumps(spell_non_finite(value))
        before = f"  {name}"
        if len(name) > _WIDEST_FACT:
            console.print(before, style="dim", soft_wrap=True)
            before = ""
        grid = Table.grid()
        grid.add_column(no_wrap=True, width=margin, style="dim")
        grid.add_column(overflow="fold")
        grid.add_row(before, Text(text))
        console.print(grid)


def _print_metrics(console: Console, metrics: dict[str, Summary]) -> None:
    from rich.text import Text

    if not metrics:
        return
    of_nodes = {name for name in metrics if tells_of_node(name)}
    if len(of_nodes) > _MOST_OF_NODES:
        metrics = {name: summary for name, summary in metrics.items() if name not in of_nodes}
    ascii_only = not console.encoding.startswith("utf")
    numbers = _NUMBERS.format("rows", "last", "least", "greatest")
    room = console.width - len(numbers) - _NARROWEST_SPARKLINE
    fitting = [len(name) for name in metrics if len(name) < room]
    margin = max([len("metric"), *fitting]) + 1
    width = max(_NARROWEST_SPARKLINE, min(_SPARKLINE, console.width - margin - len(numbers)))
    console.print(f"{'metric':<{margin}}{numbers}course", style="bold", soft_wrap=True)
    for name, summary in metrics.items():
        values = (summary.last, summary.min, summary.max)
        cells = ["-" if value is None else format_number(value) for value in values]
        broken = "\n" + " " * margin if len(name) >= margin else ""
        line = Text(f"{name:<{margin}}{broken}{_NUMBERS.format(summary.count, *cells)}")
        course = summary.sparkline(width, ascii_only=ascii_only)
        console.print(line.append(course, style="cyan"), soft_wrap=True)
    if len(of_nodes) > _MOST_OF_NODES:
        text = f"and {len(of_nodes):,} metrics of nodes' hardware: --json, or 'fasttrack plot'"
        console.print(text, style="dim", soft_wrap=True)
