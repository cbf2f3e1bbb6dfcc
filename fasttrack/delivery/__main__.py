"""The delivery process: `python -m fasttrack.delivery RUN`.

Started by the trainer, on a segment and with `--trainer-pid`, it follows that segment until the
trainer is done. Started by hand, on a run's journal directory (`fasttrack sync` does it), it
delivers what is there to the run's backends, prints one JSON object per event, and exits with 0 if
all of it is proven to have arrived, 1 if not, 2 if there is no such run, 3 if another process
delivers it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from fasttrack.alerts.settings import COMMAND_VARIABLE, WEBHOOK_VARIABLE, resolve_means
from fasttrack.delivery import stuck_trainer
from fasttrack.delivery.alerting.alerts import AlertMeans
from fasttrack.delivery.alerting.standing import Outlook, Standing
from fasttrack.delivery.backends.numpy_door import keep_numpy_out
from fasttrack.delivery.children import kill_children
from fasttrack.delivery.courtesy import NICENESS, Courtesy
from fasttrack.delivery.events import Beat, Done, Trouble, encode
from fasttrack.delivery.quick_exit import leave_with
from fasttrack.delivery.run_delivery import RunDelivery
from fasttrack.delivery.spawn import BUSY, HUNG
from fasttrack.delivery.watchdog import Watchdog
from fasttrack.journal.run_directory import segments

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.delivery.events import Event

_MOST_REPLACEMENTS = 3  # of a process that hung; then its trainer's supervisor decides
_TERMINAL_S = 2.0  # that a line may take to be written there
_COUNT = "--replaced"  # how often this process has been begun anew
# Slurm signals every process of a job, a terminal its whole process group: delivery must outlive
# the trainer to drain what it left.
_IGNORED_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


class Reporter:
    """Tell what happens: the trainer over a pipe, without ever waiting for it; others on stdout.

    Threads: any.
    """

    def __init__(self, fd: int | None) -> None:
        """Write to `fd`; None: print."""
        self._fd = fd
        if fd is not None:
            os.set_blocking(fd, False)

    def __call__(self, event: Event) -> None:
        """Send one event; drop it where the trainer does not read, or is gone."""
        line = encode(event)
        if self._fd is None:
            print(line.decode(), end="", file=sys.__stdout__, flush=True)
            return
        with contextlib.suppress(OSError):
            os.write(self._fd, line)


def _settle(trainer_pid: int | None) -> None:
    """Become a process that no signal to the job ends and that training does not feel."""
    keep_numpy_out()
    os.umask(0o077)  # W&B's own files hold every row, the configuration and the console
    if trainer_pid is None:
        return
    for name in _IGNORED_SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(NICENESS - os.nice(0))
    with contextlib.suppress(OSError, AttributeError):  # trainers are often bound to one core
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


class Replacement:
    """Begin this process anew where a client's call does not come back.

    What was handed over is not lost: whoever follows asks the destination. It keeps its number, so
    it stays its trainer's child, and what reads its reports reads on.

    Threads: the watchdog's.
    """

    def __init__(self, report: Reporter, environment: dict[str, str], replaced: int) -> None:
        """Begin anew with `environment`, which clients have not changed, after `replaced` times."""
        self._report = report
        self._environment = environment
        self._replaced = replaced
        self.trainer_alive: Callable[[], bool] = lambda: False

    def on_cut(self, owner: str, why: str) -> None:
        """Say that a call's helper was ended."""
        self._report(Trouble(backend=owner, reason=why))

    def on_hang(self, owner: str, why: str) -> None:
        """Replace this process by a new one, or give up. Never returns."""
        kill_children(os.getpid())
        if self._replaced < _MOST_REPLACEMENTS:
            self._report(Trouble(backend=owner, reason=f"{why}; delivery is begun anew"))
            arguments = _without_count(sys.orig_argv[1:])
            command = [sys.executable, *arguments, _COUNT, str(self._replaced + 1)]
            with contextlib.suppress(OSError):
                os.execve(sys.executable, command, self._environment)
        elif not self.trainer_alive():  # else its supervisor goes on
            self._report(Done(backend=owner, delivered=False, reason=why))
        os._exit(HUNG)


def _alert_means(
    trainer_pid: int | None, report_fd: int | None, stderr_fd: int | None
) -> AlertMeans:
    webhook, command = resolve_means()
    for name in (WEBHOOK_VARIABLE, COMMAND_VARIABLE):  # clients and their helpers need not know
        os.environ.pop(name, None)

    def say(line: str) -> bool:
        """Write to the trainer's stderr, on a thread: a terminal may be held by Ctrl-S."""
        if stderr_fd is None:
            return False
        text = f"[ExperimentTracker] {line}\n".encode()
        writing = threading.Thread(target=os.write, args=(stderr_fd, text), daemon=True)
        writing.start()
        writing.join(_TERMINAL_S)
        return True

    def let_go() -> None:
        if stderr_fd is not None:
            os.close(stderr_fd)

    return AlertMeans(
        webhook=webhook,
        command=command,
        look=Standing if trainer_pid is None else Outlook(trainer_pid, report_fd),
        say_for_trainer=say,
        let_go=let_go,
    )


def _without_count(arguments: list[str]) -> list[str]:
    place = arguments.index(_COUNT) if _COUNT in arguments else len(arguments)
    return arguments[:place] + arguments[place + 2 :]


def main() -> int:
    """Deliver; return the exit code."""
    environment = dict(os.environ)
    parser = argparse.ArgumentParser(prog="python -m fasttrack.delivery", description=__doc__)
    parser.add_argument("run", type=Path, help="the run's journal, wandb/fasttrack/<run id>")
    parser.add_argument(
        "--meanwhile",
        action="store_true",
        help="leave the run itself to its own delivery, which fills a local stand-in as it goes on",
    )
    parser.add_argument("--to", action="append", default=[], help="a backend, instead of the run's")
    parser.add_argument("--trainer-pid", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--report-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--signals-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--stderr-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument(_COUNT, type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    found = segments(arguments.run) if arguments.run.is_dir() else [arguments.run]
    if not found or not found[-1].is_file():
        parser.error(f"{arguments.run} holds no journal (no segment-*.jsonl)")
    _settle(arguments.trainer_pid)
    trainer_pid = arguments.trainer_pid
    if arguments.signals_fd is not None:
        stuck_trainer.watch(arguments.signals_fd, trainer_pid)

    def trainer_alive() -> bool:
        return trainer_pid is not None and os.getppid() == trainer_pid

    if trainer_pid is not None:
        Courtesy(found[-1], trainer_alive).start()
    report = Reporter(arguments.report_fd)
    replacement = Replacement(report, environment, arguments.replaced)
    replacement.trainer_alive = trainer_alive
    watchdog = Watchdog(
        on_cut=replacement.on_cut, on_hang=replacement.on_hang, on_beat=lambda: report(Beat())
    )
    watchdog.start()
    try:
        delivery = RunDelivery(
            found[-1],
            trainer_alive=trainer_alive,
            report=report,
            watchdog=watchdog,
            alert_means=_alert_means(trainer_pid, arguments.report_fd, arguments.stderr_fd),
        )
    except ValueError as error:
        parser.error(str(error))
    if trainer_pid is not None:
        delivered = delivery.follow()
    elif arguments.meanwhile:
        delivered = delivery.deliver_meanwhile()
    else:
        delivered = delivery.deliver_now(arguments.to)
    watchdog.stop()
    return BUSY if delivered is None else int(not delivered)


if __name__ == "__main__":
    leave_with(main)
