"""`fasttrack demo`: a real training run, tracked and drawn, without account or network."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import click

from fasttrack.command import spell_command, spell_tool
from fasttrack.runs.local import LocalRun
from fasttrack.runs.status import find_delivery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fasttrack.demo import Outcome
    from fasttrack.runs.status import BackendDelivery


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
    from fasttrack.views.picture import draw, require_matplotlib

    require_matplotlib()  # before the training rather than after it
    from fasttrack.demo import run_demo

    outcome = run_demo(epochs, mode, watch=_watch)
    if outcome is None:  # a rank that does not record
        return
    run = LocalRun(outcome.run_dir)
    _report(run, outcome)
    draw([run], output)
    _say("picture", f"{output.absolute()}, drawn from the journal alone")


@contextmanager
def _watch(steps: int) -> Iterator[Callable[[], object]]:
    """Show a bar while so many steps are trained, if stdout is a terminal; yields what moves it.

    Elsewhere the example's own lines are enough.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("training", total=steps)
    with bar:
        yield lambda: bar.advance(task)


def _report(run: LocalRun, outcome: Outcome) -> None:
    """Say what the user may want to know and do."""
    click.echo()
    delivery = find_delivery(run)
    topics = {
        "run": f"{run.name}, id {run.run_id}",
        "journal": f"{run.directory}, {outcome.rows} rows",
        **dict(map(_destination, delivery.backends)),
        "cost": _cost(outcome),
        "look": spell_command("show", run.run_id),
        "draw": spell_command("plot", run.run_id),
    }
    if delivery.backends:
        topics["upload"] = spell_command("sync", run.run_id)
    for topic, text in topics.items():
        _say(topic, text)


def _say(topic: str, text: str) -> None:
    click.echo(f"{topic:<8} {text}")


def _destination(backend: BackendDelivery) -> tuple[str, str]:
    """Return where the run's rows went, and what that is called."""
    topic = {"wandb": "W&B"}.get(backend.backend, backend.backend)
    if backend.directory is None and backend.url is None:
        return topic, "nothing delivered yet"
    if backend.url is not None:
        return topic, backend.url
    if backend.word == "offline dir":
        return topic, f"offline, for '{spell_tool('wandb', 'sync', str(backend.directory))}'"
    return topic, str(backend.directory)


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
