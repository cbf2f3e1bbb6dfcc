"""What proves that W&B has a run's rows: the server's word, or the closed file read back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasttrack.delivery.backends.wandb.client import CORE_DIED, import_wandb, one_line, public_run
from fasttrack.delivery.backends.wandb.file import read_payloads

if TYPE_CHECKING:
    from pathlib import Path


def prove_online(run_path: str, last_step: int, timeout_s: float) -> str | None:
    """Ask the server for the run's last `_step`; return the proof in words, None without one."""
    wandb = import_wandb()
    try:
        seen = public_run(run_path, timeout_s).lastHistoryStep
    except (wandb.errors.Error, *CORE_DIED, ValueError) as error:
        return f"only the client's word: the server did not answer ({one_line(error)})"
    return f"the server's last step is {seen}" if seen >= last_step else None


def prove_file(directory: Path, *, last_step: int, rows: int, artifacts: int) -> str | None:
    """Read an offline run directory's file back; return the proof in words, None without one.

    Args:
        directory: the run directory.
        last_step: the highest `_step` that was handed over.
        rows: how many distinct `_step`s this session handed over.
        artifacts: how many artifacts it handed over.
    """
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    counted, seen, ended, kept = 0, -1, False, 0
    for file in directory.glob("run-*.wandb"):
        for payload in read_payloads(file):
            record = Record.FromString(payload)
            kind = record.WhichOneof("record_type")
            ended = ended or kind == "exit"
            kept += kind == "artifact"
            if kind == "history":
                counted += 1
                seen = max(seen, record.history.step.num)
    whole = ended and counted == rows and kept == artifacts
    if whole and seen == (last_step if rows else -1):
        return f"{counted} rows read back from {directory.name}"
    return None
