"""`fasttrack verify`: compare a run with what its destinations hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fasttrack.cli.shared import dir_option, json_option, note, print_json
from fasttrack.runs.local import find_run
from fasttrack.runs.verify import repair_run, verify_run

if TYPE_CHECKING:
    from pathlib import Path

    from fasttrack.runs.verify import PlaceVerdict, Verification

_MOST_RANGES = 10


@click.command("verify")
@click.argument("text", metavar="RUN")
@click.option("--repair", is_flag=True, help="Deliver what is missing, and compare again.")
@dir_option
@json_option
def verify(text: str, repair: bool, base: Path | None, as_json: bool) -> int:
    """Compare a run's journal with what each destination holds: every value of every row.

    Of W&B the server is read, or, where the run was delivered offline only, the file in its
    offline directory; of TensorBoard the event files; of MLflow and trackio the run itself. A value
    is known by its metric, its step and its number; in which order rows stand makes no difference.
    --repair sends what is missing. What is there too often, or somebody else's, stays: no
    destination takes rows back.

    Exit code 0 if every row is there, once; 1 if something differs, or a line of the journal is
    damaged; 2 if something could not be checked: a server that does not answer, a run that is being
    delivered.

    --json prints an object: run_id, directory, whole, exit_code, reason (why nothing could be
    compared, or null), damaged (lines of the journal), places (list: backend, place, attempts,
    rows, values, lines, missing, replaced, missing_steps, missing_rows, doubled, doubled_steps,
    others, left_out, metrics (name -> journal and held -> count, checksum), error).
    """
    run = find_run(text, base)
    found = (repair_run if repair else verify_run)(run, on_silence=note)
    if as_json:
        print_json(found.as_json())
    else:
        _say(found)
    return found.exit_code


def _say(found: Verification) -> None:
    if found.reason is not None:
        note(f"{found.run_id} could not be checked: {found.reason}")
    for place in found.places:
        where = f"{found.run_id}: {place.backend}"
        if place.error is not None:
            note(f"{where} could not be checked: {place.error}")
            continue
        click.echo(f"{where}, {place.place}: {_judgement(place)}")
        for words in _differences(place):
            click.echo(f"  {words}")
    for line in found.damaged:
        click.echo(f"  damaged, so nowhere: {line}")


def _judgement(place: PlaceVerdict) -> str:
    if place.is_whole:
        return f"all {place.rows:,} rows are there ({place.values:,} values)"
    if place.missing:
        return f"{place.missing:,} of {place.rows:,} rows are not there"
    return f"all {place.rows:,} rows are there, some of them more than once"


def _differences(place: PlaceVerdict) -> list[str]:
    told = []
    if place.missing:
        told.append(f"missing: steps {_spell(place.missing_steps)}")
    if place.replaced:
        told.append(f"of these, {place.replaced:,} have other values in their place")
    if place.doubled:
        told.append(f"too often: {place.doubled:,} values at steps {_spell(place.doubled_steps)}")
    if place.others:
        told.append(f"not from this journal: {place.others:,} values of its metrics")
    told += [f"left out: metric {name!r} {why}" for name, why in place.left_out.items()]
    if not place.is_whole:
        for name, sums in place.metrics.items():
            if sums["journal"] != sums["held"]:
                counts = f"{sums['journal']['count']:,} values logged, {sums['held']['count']:,}"
                told.append(f"{name}: {counts} there")
    return told


def _spell(ranges: list[list[int]]) -> str:
    told = [str(a) if a == b else f"{a} to {b}" for a, b in ranges[:_MOST_RANGES]]
    return ", ".join(told) + (", ..." if len(ranges) > _MOST_RANGES else "")
