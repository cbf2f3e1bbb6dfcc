"""The command `fasttrack`: finds a command's module when it is called, and says errors in a line.

A new command is a module that has a click command of its own name, and a line in `COMMANDS`.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from fasttrack.command import spell_command
from fasttrack.errors import FasttrackError, RunNotFoundError, RunUnreadableError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "audit": ("fasttrack.cli.audit", "Run a script and find what waits for the device."),
    "compare": ("fasttrack.cli.compare", "Say in what runs differ: configuration, metrics."),
    "demo": ("fasttrack.cli.demo", "Track a small training run: no account, no network."),
    "doctor": ("fasttrack.cli.doctor", "Check this machine, the account and the network."),
    "export": ("fasttrack.cli.export", "Write the rows of runs as CSV, Parquet or JSON."),
    "plot": ("fasttrack.cli.plot", "Draw the metrics of runs as a figure."),
    "report": ("fasttrack.cli.report", "Write runs as one page for a browser."),
    "runs": ("fasttrack.cli.runs", "List the runs and what of them is delivered."),
    "show": ("fasttrack.cli.show", "Show one run: metadata, config, metrics, delivery."),
    "stop": ("fasttrack.cli.stop", "Ask a running program to save and leave."),
    "sync": ("fasttrack.cli.sync", "Deliver runs now, and prove it."),
    "tail": ("fasttrack.cli.tail", "Print a run's last rows, and follow it."),
    "ui": ("fasttrack.cli.ui", "Look at runs in a browser while they go on."),
    "verify": ("fasttrack.cli.verify", "Compare a run with what its destinations hold."),
}
"""Name -> (module, help in one line): `--help` must not load what the commands need."""

_INTERRUPTED = 130  # what a shell reports of a program that Ctrl-C ended


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, imported; None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        """Run the command line and exit; what goes wrong for the user is one line on stderr.

        A command returns its exit code; None is 0.
        """
        try:
            code = super().main(args, **{**extra, "standalone_mode": False})
            sys.stdout.flush()  # a reader that left is noticed here, not at the interpreter's end
        except click.ClickException as error:
            _say_error(error.format_message(), getattr(error, "ctx", None))
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            sys.exit(_INTERRUPTED)
        except BrokenPipeError:  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except (RunNotFoundError, RunUnreadableError) as error:
            _say_error(str(error), None)
            sys.exit(2)
        except (FasttrackError, OSError) as error:
            _say_error(str(error), None)
            sys.exit(1)
        sys.exit(code)


def _say_error(text: str, context: click.Context | None) -> None:
    help_hint = ""
    if context is not None:
        _, *commands = context.command_path.split()
        help_hint = f"; see {spell_command(*commands, '--help')}"
    click.echo(f"fasttrack: {text.rstrip('.')}{help_hint}", err=True)


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="fasttrack")
@click.pass_context
def cli(context: click.Context) -> None:
    """Look at, deliver and export the runs that fasttrack recorded.

    RUN is a run's id, the beginning of one, the path of a run's directory (also of one copied
    from another machine), or "latest"; where several may be named, "group:NAME" is all runs of a
    group. Runs are looked for in wandb/fasttrack/ under --dir, else under WANDB_DIR, else here.

    Exit codes: 0 all is well; 1 what was asked for failed; 2 wrong usage, or no such run that can
    be read; 130 Ctrl-C.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> NoReturn:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # no traceback over a "▂"
    cli.main(prog_name="fasttrack")
