"""`fasttrack demo`: a real training run, tracked and drawn, without account or network."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import click

from fasttrack.cli.plot import draw_run
from fasttrack.journal.cursor import load_cursor
from fasttrack.runs.local import LocalRun

if TYPE_CHECKING:
    from fasttrack.demo import Outcome


@click.command("demo")
@click.option("--epochs", type=click.IntRange(min=1), default=12, show_default=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    default=Path("fasttrack-demo.png"),
    show_default=True,
    help="The picture to write (.png, .svg, .pdf).",
)
@click.option(
    "--mode",
    type=click.Choice(["offline", "online"]),
    default="offline",
    show_default=True,
    help="online: send the run to W&B.",
)
def demo(epochs: int, output: Path, mode: str) -> None:
    """Track the training of a small CNN on handwritten digits, and draw it.

    Takes some seconds on a CPU, and neither account nor network. The run goes to wandb/ under
    WANDB_DIR, else here.

    Needs scikit-learn and matplotlib: pip install 'fasttrack[examples]'.
    """
    from fasttrack.views.picture import require_matplotlib

    require_matplotlib()  # before the training rather than after it
    from fasttrack.demo import run_demo

    outcome = run_demo(epochs, mode)
    if outcome is None:  # a rank that does not record
        return
    run = LocalRun(outcome.run_dir)
    _report(run, outcome)
    draw_run(run, output)
    _say("picture", f"{output.absolute()}, drawn from the journal alone")


def _report(run: LocalRun, outcome: Outcome) -> None:
    """Say what the user may want to know and do."""
    click.echo()
    topics = {
        "run": f"{run.header['name']}, id {run.run_id}",
        "journal": f"{run.directory}, {outcome.rows} rows",
        "W&B": _destination(outcome),
        "cost": _cost(outcome),
        "look": f"fasttrack show {run.run_id}",
        "draw": f"fasttrack plot {run.run_id}",
        "upload": f"fasttrack sync {run.run_id}",
    }
    for topic, text in topics.items():
        _say(topic, text)


def _say(topic: str, text: str) -> None:
    click.echo(f"{topic:<9}{text}")


def _destination(outcome: Outcome) -> str:
    """Say where the run's rows went."""
    if outcome.url is not None:
        return outcome.url
    cursor = load_cursor(outcome.run_dir / "cursor.json")
    if not cursor.offline_directories:
        return "nothing delivered yet"
    directory = outcome.run_dir.parents[1] / cursor.offline_directories[-1]
    return f"offline, for 'wandb sync {directory}'"


def _cost(outcome: Outcome) -> str:
    """Say what the calls of `log_training_step` cost the training loop, in medians."""
    from fasttrack.demo import LOG_INTERVAL

    quiet = [cost for i, cost in enumerate(outcome.costs_s) if i % LOG_INTERVAL]
    quiet_us, logged_us = median(quiet) * 1e6, median(outcome.costs_s[::LOG_INTERVAL]) * 1e6
    mean_us = quiet_us + (logged_us - quiet_us) / LOG_INTERVAL
    step_us = median(outcome.steps_s) * 1e6
    return (
        f"{mean_us:.1f} us a step, {mean_us / step_us:.2%} of a step's {step_us / 1000:.2f} ms "
        f"({logged_us:.1f} us at every {LOG_INTERVAL}th\n{'':9}step, where a row is logged, "
        f"{quiet_us:.1f} us at the others; medians)"
    )
