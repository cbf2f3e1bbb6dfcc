"""The training process of the rig: `python trainer.py SPEC`, a small loop that logs known rows.

What it does it notes in a file, one JSON object per line and system call, so that whoever kills it
knows what was logged and what `flush()` said was kept.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faults.checkpoints import save_checkpoint
from faults.garbage import call_at_random
from faults.rows import ID, step_of, values_of

if TYPE_CHECKING:
    from fasttrack import ExperimentTracker

TAGS = {"model": "eo1", "dataset": "lego", "objective": "ar+fm", "experiment_group": "faults"}


@dataclass
class Spec:
    """What to train."""

    notes: str
    """The file that the trainer notes what it does in."""
    seed: int = 0
    rows: int = 300
    first: int = 0
    """Id of the first row."""
    pace_s: float = 0.002
    """Seconds between rows."""
    flush_every: int = 50
    """Rows between calls of `flush()`; 0: never."""
    mode: str = "online"
    run_id: str | None = None
    """The run to go on with."""
    options: dict[str, Any] = field(default_factory=dict)
    handler: str = ""
    """What the script's own signal handler does: "" for no handler, "flag", "raise" or "exit"."""
    hold: str = ""
    """A file; the loop's last row is logged only when it is there."""
    checkpoints: str = ""
    """What happens to the checkpoints that are logged; "": none are."""
    checkpoint_bytes: int = 0
    garbage: int = 0
    """How many calls with garbage are made, instead of the loop."""
    method: str = ""
    """How the training function is started; "": it is the script."""
    ending: str = "finish"
    """"finish", "raise", "exit" or "return"."""


class Notes:
    """What the trainer did, on disk as it is done."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __call__(self, what: str, **facts: Any) -> None:
        """Note one fact."""
        line = json.dumps({"what": what, "time": time.monotonic(), **facts}) + "\n"
        os.write(self._fd, line.encode())


class StopTraining(Exception):
    """What the script's own handler raises."""


def main(spec: Spec) -> None:
    """Train."""
    note = Notes(spec.notes)
    note("begun", pid=os.getpid())
    if spec.method:
        from faults.children import train_in_child

        train_in_child(spec, note)
    else:
        train(spec, note)


def train(spec: Spec, note: Notes) -> None:
    """Log the rows of `spec`."""
    import torch

    from fasttrack import ExperimentTracker, Options

    gc.freeze()  # or its end would look for garbage in all that torch has made: 0.7 s of CPU
    stop = _install_handler(spec)
    tracker = ExperimentTracker(
        project="faults",
        config={"seed": spec.seed},
        tags=TAGS,
        log_interval=1,
        mode=spec.mode,
        resume_id=spec.run_id,
        options=Options(**spec.options),
    )
    note("open", run_id=tracker.get_run_id(), directory=str(tracker.get_run_dir()))
    torch.manual_seed(spec.seed)
    if spec.garbage:
        call_at_random(tracker, spec, note)
        spec.rows = 0
    try:
        for row_id in range(spec.first, spec.first + spec.rows):
            if spec.hold and row_id == spec.first + spec.rows - 1:
                _await_file(Path(spec.hold), note)
            log_row(tracker, row_id, spec.seed)
            note("logged", id=row_id)
            save_checkpoint(tracker, row_id, spec, note)
            if spec.flush_every and (row_id + 1) % spec.flush_every == 0 and tracker.flush(30.0):
                note("kept", id=row_id)
            if stop:
                note("stopped", id=row_id)
                break
            time.sleep(spec.pace_s)
    except StopTraining:
        note("stopped")
    _end(tracker, spec, note)


def log_row(tracker: ExperimentTracker, row_id: int, seed: int) -> None:
    """Log one row, as a training or as an evaluation step."""
    import torch

    values, step = values_of(row_id, seed), step_of(row_id)
    if step != row_id:
        nested = {"loss": values["eval.loss"], "deep": {"er": values["eval.deep.er"]}}
        tracker.log_metrics({ID: row_id, "eval": nested}, step=step)
        return
    extra: dict[str, Any] = {k: v for k, v in values.items() if k != "loss/total"}
    extra["check/sine"] = torch.tensor(extra["check/sine"], dtype=torch.float64)
    tracker.log_training_step(torch.tensor(values["loss/total"]), step, 4, extra=extra)


def _end(tracker: ExperimentTracker, spec: Spec, note: Notes) -> None:
    if spec.ending == "raise":
        raise ZeroDivisionError("the training failed")
    if spec.ending == "exit":
        sys.exit(3)
    if spec.ending == "return":
        return
    note("finishing")
    tracker.finish()
    note("finished", stats=asdict(tracker.stats()))


def _await_file(path: Path, note: Notes) -> None:
    note("holding")
    while not path.exists():
        time.sleep(0.01)


def _install_handler(spec: Spec) -> list[int]:
    """Install the script's own handler; return a list that is no longer empty after a signal."""
    stop: list[int] = []

    def handle(signum: int, frame: object) -> None:
        if spec.handler == "raise":
            raise StopTraining
        if spec.handler == "exit":
            sys.exit(128 + signum)
        stop.append(signum)

    if spec.handler:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(signum, handle)
    return stop


if __name__ == "__main__":
    main(Spec(**json.loads(sys.argv[1])))
