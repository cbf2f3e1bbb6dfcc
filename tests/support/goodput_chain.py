"""A training program whose truth is known: it notes each step's true begin and end in a file.

    goodput_chain.py DIRECTORY

Slurm starts it four times. Each time but the last it trains until it is preempted; it goes on from
its last checkpoint, some steps back. The first and the third time it leaves when it is asked to,
the second time SIGTERM ends it in the midst of a step. An evaluation now and then is a pause.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fasttrack import ExperimentTracker, Options

if TYPE_CHECKING:
    from collections.abc import Iterator

STEP_S, PAUSE_S = 0.02, 0.1
SAVE_EVERY, EVALUATE_EVERY, LAST_STEPS = 40, 50, 80
STARTS = 4


class Truth:
    """What really happens, a line each: what, number, begin, end."""

    def __init__(self, path: Path) -> None:
        """Append to `path`."""
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    @contextmanager
    def note(self, what: str, number: int = 0) -> Iterator[None]:
        """Note when the block began and ended, once it has ended; of a pause its beginning, too."""
        begin_s = time.time()
        if what == "pause":  # SIGTERM may end the program in it
            self._write("pausing", number, begin_s, begin_s)
        yield
        self._write(what, number, begin_s, time.time())

    def _write(self, *line: str | float) -> None:
        os.write(self._fd, json.dumps(line).encode() + b"\n")


def main(directory: Path) -> None:
    """Train until preempted, at the last start for some steps."""
    start = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    checkpoint = directory / "checkpoint"
    step = int(checkpoint.read_text()) if checkpoint.exists() else 0
    last = step + LAST_STEPS if start == STARTS - 1 else None
    truth = Truth(directory / "truth")
    with truth.note("begin"):
        pass
    tracker = ExperimentTracker(
        project="goodput",
        resume_id="auto",
        log_interval=1,
        options=Options(finish_timeout_s=20, wait_for_delivery="finish"),
    )
    leaves = start % 2 == 0 or last is not None
    while step != last and not (leaves and tracker.should_stop()):
        with truth.note("step", step):
            time.sleep(STEP_S)
            tracker.log_training_step(1.0, step, 1)
        step += 1
        if step % EVALUATE_EVERY == 0:
            with tracker.pause(), truth.note("pause"):
                time.sleep(PAUSE_S)
        if step % SAVE_EVERY == 0:
            with tracker.pause(), truth.note("pause"):
                checkpoint.write_text(str(step))
    with truth.note("end"):
        pass
    tracker.finish(0 if step == last else 143, preempting=step != last)
    sys.exit(0 if step == last else 143)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
