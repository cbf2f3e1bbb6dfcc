"""`fasttrack show`: everything that is known of one run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from fasttrack.cli.shared import (
    dir_option,
    format_number,
    format_time,
    json_option,
    make_console,
    print_json,
    spell,
    warn_of_damage,
)
from fasttrack.runs.local import find_run
from fasttrack.runs.status import find_delivery, summarize
from fasttrack.runs.summary import Summary

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from fasttrack.runs.local import LocalRun

_SPARKLINE_WIDTH = 16
_METRIC_FIELDS = ("count", "non_finite", "last", "min", "max")
_HEADER_FACTS = ("tags", "group", "notes", "mode", "host", "pid", "world_size", "argv", "cwd")


@click.command("show")
@click.argument("text", metavar="RUN")
@dir_option
@json_option
def show(text: str, base: Path | None, as_json: bool) -> None:
    """Show one run: what it was, what of it is delivered, and how its metrics went.

    A metric's course is drawn from the means of neighbouring values; "!" stands where one of them
    is NaN or infinite. Least and greatest are those of its finite values.

    --json prints an object: the keys of 'fasttrack runs --json', then header (as recorded),
    metadata (or null), config, artifacts (list: attempt, number, type, name, aliases, directory,
    files, size_bytes, step, time, delivery), segments (list: attempt, rows, server, offline; the
    last two are proofs or null), offline_directories, bad_lines, and metrics (name -> count,
    non_finite, last, min, max).
    """
    run = find_run(text, base)
    facts = collect(run)
    if as_json:
        metrics = {
            name: {field: getattr(summary, field) for field in _METRIC_FIELDS}
            for name, summary in facts["metrics"].items()
        }
        print_json({**facts, "metrics": metrics})
    else:
        _print(facts)
    warn_of_damage(run)


def collect(run: LocalRun) -> dict[str, Any]:
    """Return all that is known of `run`, as documented at the command; metrics as `Summary`s.

    Raises:
        OSError: a segment cannot be read.
    """
    delivery = find_delivery(run)
    metadata: dict[str, Any] | None = None
    config: dict[str, Any] = {}
    artifacts: list[dict[str, Any]] = []
    metrics: dict[str, Summary] = {}
    for attempt, entry in run.entries():
        kind = entry["kind"]
        if kind == "row":
            for name, value in entry["values"].items():
                metrics.setdefault(name, Summary()).add(value)
        elif kind == "metadata":
            metadata = entry["values"]
        elif kind == "config":
            config.update(entry["values"])
        elif kind == "header":
            config.update(entry.get("config") or {})
        elif kind == "artifact":
            proof = delivery.artifacts.get((attempt, str(entry["number"])))
            artifacts.append({"attempt": attempt, **entry, "delivery": proof})
            del artifacts[-1]["kind"]
    return {
        **summarize(run),
        "header": run.header,
        "metadata": metadata,
        "config": config,
        "artifacts": artifacts,
        "segments": [asdict(segment) for segment in delivery.segments],
        "offline_directories": delivery.offline_directories,
        "bad_lines": run.bad_lines,
        "metrics": metrics,
    }


def _print(facts: dict[str, Any]) -> None:
    console = make_console()
    header = facts["header"]
    ended = "" if facts["exit_code"] is None else f" (exit code {facts['exit_code']})"
    _print_facts(
        console,
        f"run {facts['run_id']}",
        {
            **{name: facts[name] for name in ("name", "project", "entity")},
            "state": facts["state"] + ended,
            "started": format_time(facts["started"]),
            "attempts": facts["attempts"],
            "rows": facts["rows"],
            "directory": facts["directory"],
            **{name: header.get(name) for name in _HEADER_FACTS},
        },
    )
    _print_facts(console, "delivery", _delivery_facts(facts))
    _print_facts(console, "metadata", flatten(facts["metadata"] or {}))
    _print_facts(console, "config", flatten(facts["config"]))
    _print_facts(console, "artifacts", _artifact_facts(facts["artifacts"]))
    _print_metrics(console, facts["metrics"])


def _delivery_facts(facts: dict[str, Any]) -> dict[str, Any]:
    told = {"delivered": facts["delivered"], "url": facts["url"]}
    for segment in facts["segments"]:
        proofs = [f"{place}: {segment[place]}" for place in ("server", "offline") if segment[place]]
        words = "; ".join(proofs) or "nothing is proven"
        told[f"attempt {segment['attempt']}"] = f"{segment['rows']} rows; {words}"
    return told


def _artifact_facts(artifacts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        f"{artifact['attempt']}.{artifact['number']}": (
            f"{artifact['name']} ({artifact['type']}; {', '.join(artifact['aliases'])}), "
            f"{artifact['files']} files, {artifact['size_bytes']} bytes; "
            f"{artifact['delivery'] or 'not delivered'}"
        )
        for artifact in artifacts
    }


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as one, its keys joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _print_facts(console: Console, title: str, facts: dict[str, Any]) -> None:
    from rich.table import Table

    told = {name: value for name, value in facts.items() if value is not None}
    if not told:
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold", max_width=30, style="dim")
    table.add_column(overflow="fold")
    for name, value in told.items():
        plain = isinstance(value, (str, int, float))
        table.add_row(f"  {name}", str(value) if plain else json.dumps(spell(value)))
    console.print(title, style="bold")
    console.print(table)


def _print_metrics(console: Console, metrics: dict[str, Summary]) -> None:
    from rich.table import Table

    ascii_only = not console.encoding.startswith("utf")
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("metric", overflow="fold", max_width=28)
    for name in ("rows", "last", "least", "greatest"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("course", no_wrap=True, style="cyan")
    for name, summary in metrics.items():
        numbers = (summary.last, summary.min, summary.max)
        table.add_row(
            name,
            str(summary.count),
            *("-" if number is None else format_number(number) for number in numbers),
            summary.sparkline(_SPARKLINE_WIDTH, ascii_only=ascii_only),
        )
    if metrics:
        console.print(table)
