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
from pathlib import Path
from typing import TYPE_CHECKING

from fasttrack.delivery.events import encode
from fasttrack.delivery.run_delivery import RunDelivery
from fasttrack.journal.run_directory import segments

if TYPE_CHECKING:
    from fasttrack.delivery.events import Event

_NICENESS = 10  # training comes first
_BUSY = 3
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
    # wandb takes numpy in if it is there, for 10 MiB and threads that nothing here needs.
    sys.modules["numpy"] = None  # type: ignore[assignment]
    os.umask(0o077)  # W&B's own files hold every row, the configuration and the console
    if trainer_pid is None:
        return
    for name in _IGNORED_SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    with contextlib.suppress(OSError, AttributeError):  # trainers are often bound to one core
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def main() -> int:
    """Deliver; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fasttrack.delivery", description=__doc__)
    parser.add_argument("run", type=Path, help="the run's journal, wandb/fasttrack/<run id>")
    parser.add_argument("--trainer-pid", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--report-fd", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    found = segments(arguments.run) if arguments.run.is_dir() else [arguments.run]
    if not found or not found[-1].is_file():
        parser.error(f"{arguments.run} holds no journal (no segment-*.jsonl)")
    _settle(arguments.trainer_pid)
    trainer_pid = arguments.trainer_pid
    try:
        delivery = RunDelivery(
            found[-1],
            trainer_alive=lambda: trainer_pid is not None and os.getppid() == trainer_pid,
            report=Reporter(arguments.report_fd),
        )
    except ValueError as error:
        parser.error(str(error))
    if trainer_pid is not None:
        return 0 if delivery.follow() else 1
    delivered = delivery.deliver_now()
    return _BUSY if delivered is None else int(not delivered)


if __name__ == "__main__":
    sys.exit(main())
