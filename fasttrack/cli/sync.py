"""`fasttrack sync`: deliver runs to the server now, each by a delivery process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fasttrack.cli.shared import (
    dir_option,
    json_option,
    make_console,
    note,
    note_no_runs,
    print_json,
)
from fasttrack.delivery.spawn import delivery_command, delivery_environment
from fasttrack.runs.local import find_run, list_runs
from fasttrack.runs.status import find_delivery

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fasttrack.runs.local import LocalRun

_BUSY = 3  # the delivery process's exit code for "another one is at it"
_PROGRESS = "{task.completed:.0f} of {task.total:.0f} rows {task.fields[doing]}"
_STOP_S = 10.0  # what a delivery process has to end after Ctrl-C


@click.command("sync")
@click.argument("texts", metavar="RUN...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All runs of the directory.")
@dir_option
@json_option
def sync(texts: tuple[str, ...], everything: bool, base: Path | None, as_json: bool) -> int:
    """Deliver runs to the server, whatever mode they were recorded in, and prove it.

    Only what the server does not have is sent, so it may be called any number of times. Account
    and server are those of the wandb client (WANDB_API_KEY, WANDB_BASE_URL, 'wandb login').

    Exit code 0 if every row of every run is proven to have arrived; else 1, also where a run's own
    process is still delivering it.

    --json prints a list of objects: run_id, directory, delivered, already (nothing was left to
    do), busy (its own process delivers it), rows, proof, url, reason (why it is not delivered).
    """
    if everything == bool(texts):
        raise click.UsageError("name the runs, or pass --all", click.get_current_context())
    chosen = list_runs(base) if everything else [find_run(text, base) for text in texts]
    runs = {run.directory.resolve(): run for run in chosen}.values()
    if not runs:
        note_no_runs(base)
    results = []
    for run in runs:
        results.append(_deliver(run))
        if not as_json:
            _say(results[-1])
    if as_json:
        print_json(results)
    return int(not all(result["delivered"] for result in results))


def _say(result: dict[str, Any]) -> None:
    proof = f"({result['proof']})" if result["proof"] else ""
    if result["busy"]:
        note(f"{result['run_id']} is being delivered by its own process; nothing to do here")
    elif not result["delivered"]:
        where = f"its rows are safe in {result['directory']}"
        note(f"{result['run_id']} is not delivered: {result['reason']}; {where}")
    elif result["already"]:
        click.echo(f"{result['run_id']}: already delivered {proof}")
    else:
        click.echo(f"{result['run_id']}: {result['rows']} rows delivered {proof}")
        click.echo(f"  {result['url']}")


def _deliver(run: LocalRun) -> dict[str, Any]:
    """Run a delivery process for `run` to its end; return what is documented at the command."""
    result: dict[str, Any] = {
        "run_id": run.run_id,
        "directory": str(run.directory.absolute()),
        **dict.fromkeys(("delivered", "already", "busy"), False),
        **dict.fromkeys(("rows", "proof", "url", "reason")),
    }
    with _Display(run) as display, _started(run.directory) as process:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # something that wandb prints
            display.show(event)
            if event["event"] == "done":
                result.update({name: event[name] for name in result.keys() & event.keys()})
        code = process.wait()
    result["busy"] = code == _BUSY
    if not result["delivered"] and result["reason"] is None:
        log = run.directory / "delivery.log"
        busy = "its own process delivers it"
        result["reason"] = busy if result["busy"] else f"delivery ended with {code}; see {log}"
    return result


@contextmanager
def _started(run_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a delivery process for the run in `run_dir`; end it with the block."""
    with open(run_dir / "delivery.log", "a", opener=_open_private) as log:
        process = subprocess.Popen(
            delivery_command(run_dir),
            env=delivery_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C is for us; we end the process in order
        )
    try:
        yield process
    finally:
        with process:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class _Display:
    """A progress bar on stderr, where that is a terminal, and what goes wrong meanwhile."""

    def __init__(self, run: LocalRun) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        console = make_console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn(_PROGRESS, markup=False),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not console.is_terminal,
        )
        rows = find_delivery(run).rows
        self._task = self._progress.add_task(run.run_id, total=rows, doing="")

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: dict[str, Any]) -> None:
        """Take in one event of the delivery process."""
        kind = event["event"]
        if "rows" in event:
            self._progress.update(self._task, completed=event["rows"])
        if kind == "trouble":
            self._progress.update(self._task, doing=event["reason"])
        elif kind == "upload":
            doing = f"{event['name']} ({event['size_bytes'] / 1e6:.1f} MB): {event['state']}"
            self._progress.update(self._task, doing=doing)
            if event["state"] == "failed":
                text = f"fasttrack: {event['name']} was not uploaded: {event['reason']}"
                self._progress.console.print(text, soft_wrap=True)
