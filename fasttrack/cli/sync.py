"""`fasttrack sync`: deliver runs to their destinations now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from fasttrack.cli.shared import (
    dir_option,
    json_option,
    make_console,
    note,
    note_no_runs,
    print_json,
)
from fasttrack.cli.sync_watch import watch_runs
from fasttrack.delivery.backends.registry import BACKENDS, MEMORY
from fasttrack.delivery.events import Progress, Trouble, Upload
from fasttrack.runs.local import find_runs, list_runs
from fasttrack.runs.status import find_delivery
from fasttrack.runs.sync import deliver_run

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import TaskID

    from fasttrack.delivery.events import Event
    from fasttrack.runs.local import LocalRun
    from fasttrack.runs.sync import SyncResult

_PROGRESS = "{task.completed:.0f} of {task.total:.0f} rows {task.fields[doing]}"


@click.command("sync")
@click.argument("texts", metavar="RUN...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All runs of the directory.")
@click.option("--watch", is_flag=True, help="Go on delivering, also runs that go on or begin.")
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    metavar="N",
    help="With --watch: how many runs at a time; each takes about 200 MB.",
)
@click.option(
    "--to",
    type=click.Choice([name for name in BACKENDS if name != MEMORY]),
    multiple=True,
    help="Deliver there, wherever else the runs go; may be given several times.",
)
@dir_option
@json_option
def sync(
    texts: tuple[str, ...],
    everything: bool,
    watch: bool,
    jobs: int,
    to: tuple[str, ...],
    base: Path | None,
    as_json: bool,
) -> int:
    """Deliver runs to their backends, whatever mode they were recorded in, and prove it.

    Only what these do not have is sent, so it may be called any number of times. W&B's account and
    server are those of its client (WANDB_API_KEY, WANDB_BASE_URL, 'wandb login'). --all leaves out
    runs that were recorded for the journal only, unless --to says where to.

    --to delivers to that backend alone, of finished runs, too, and of those that were recorded for
    others or for the journal only; from then on it is a destination like the run's own.

    Works on a copy of wandb/ on another machine, where 'wandb sync' leaves artifacts out.

    Exit code 0 if every row of every run is proven to have arrived; else 1, also where a run's own
    process is still delivering it.

    --watch, on a node with network that sees the directory: rows of runs in mode "offline" arrive
    while they are written elsewhere, and all runs are delivered whole when they are over. Without
    RUN it watches all, also those to come. Ctrl-C and SIGTERM end it, with 1 where a delivery
    failed last; it may be killed, too, and started again: rows arrive once.

    --json prints a list of objects: run_id, directory, delivered (to all backends), already
    (nothing was left to do), busy (another process delivers it), rows, proof, url, reason (why it
    is not delivered), left_out (what never can be: damaged lines, say), backends (name ->
    delivered, already, offline, rows, proof, url, directory, reason).
    """
    context = click.get_current_context()
    if everything and texts:
        raise click.UsageError("name the runs, or pass --all", context)
    if watch:
        if as_json or to:
            raise click.UsageError("--watch has no --to and no --json", context)
        return watch_runs(texts, base, jobs)
    if context.get_parameter_source("jobs") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--jobs is for --watch", context)
    if not (everything or texts):
        raise click.UsageError("name the runs, or pass --all", context)
    if everything:
        found = list_runs(base)
        runs = [run for run in found if to or not run.journal_only]
        if not found:
            note_no_runs(base)
    else:
        runs = find_runs(texts, base)
    results = []
    for run in runs:
        with _Display(run) as display:
            results.append(deliver_run(run, to=to, on_event=display.show, on_silence=display.warn))
        if not as_json:
            _say(results[-1])
    if as_json:
        print_json([result.as_json() for result in results])
    return int(not all(result.delivered for result in results))


def _say(result: SyncResult) -> None:
    for what in result.left_out:
        note(f"{result.run_id}: left out {what}")
    proof = f"({result.proof})" if result.proof else ""
    if result.busy:
        note(f"{result.run_id}: {result.reason}; nothing to do here")
    elif not result.delivered:
        where = f"its rows are safe in {result.directory}"
        note(f"{result.run_id} is not delivered: {result.reason}; {where}")
    elif result.already:
        click.echo(f"{result.run_id}: already delivered {proof}")
    else:
        click.echo(f"{result.run_id}: {result.rows} rows delivered {proof}")
        for done in result.backends:
            if (place := done.url or done.directory) is not None:
                click.echo(f"  {place}")


class _Display:
    """A progress bar for each backend on stderr, if that is a terminal; and what goes wrong."""

    def __init__(self, run: LocalRun) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        console = make_console(stderr=True)
        self._run_id = run.run_id
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn(_PROGRESS, markup=False),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not console.is_terminal,
        )
        delivery = find_delivery(run)
        self._rows = delivery.rows
        self._several = len(delivery.backends) > 1
        self._tasks: dict[str, TaskID] = {}
        for one in delivery.backends:
            self._task(one.backend)

    def _task(self, backend: str) -> TaskID:
        if backend not in self._tasks:
            name = f"{self._run_id} to {backend}" if self._several else self._run_id
            self._tasks[backend] = self._bars.add_task(name, total=self._rows, doing="")
        return self._tasks[backend]

    def __enter__(self) -> _Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, event: Event) -> None:
        """Take in one report of the delivery process."""
        match event:
            case Progress():
                self._bars.update(self._task(event.backend), completed=event.rows)
            case Trouble():
                task = self._task(event.backend)
                self._bars.update(task, completed=event.rows, doing=event.reason)
            case Upload():
                doing = f"{event.name} ({event.size_bytes / 1e6:.1f} MB): {event.state}"
                self._bars.update(self._task(event.backend), doing=doing)
                if event.state == "failed":
                    self.warn(f"{event.name} was not uploaded: {event.reason}")

    def warn(self, why: str) -> None:
        """Say what goes wrong while the run is delivered."""
        self._bars.console.print(f"fasttrack: {self._run_id}: {why}", soft_wrap=True)
