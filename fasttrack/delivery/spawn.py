"""How a delivery process is started, and with what it ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

BUSY = 3
"""The exit code where another process delivers the run."""
HUNG = 75
"""The exit code where a client's call did not come back: a temporary failure."""

# Where the program has a W&B run of its own, its client would share that run's helper, and its end.
_THE_TRAINERS = ("WANDB_SERVICE",)


def delivery_command(target: Path) -> list[str]:
    """Return the command that delivers `target`, a segment or a run's directory."""
    return [sys.executable, "-m", "fasttrack.delivery", str(target)]


def meanwhile_command(run_dir: Path) -> list[str]:
    """Return the command that sends what there is of an offline run that goes on."""
    return [*delivery_command(run_dir), "--meanwhile"]


def verification_command(run_dir: Path, *, recheck: bool = False) -> list[str]:
    """Return the command that compares a run with what its destinations hold.

    Args:
        run_dir: the run's directory.
        recheck: whether the next delivery is to do so instead, and to send what is missing.
    """
    flags = ["--recheck"] if recheck else []
    return [sys.executable, "-m", "fasttrack.delivery.verification", str(run_dir), *flags]


def delivery_environment() -> dict[str, str]:
    """Return its environment: this package is found, and nothing else by accident."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH")
    ours = {name: value for name, value in os.environ.items() if name not in _THE_TRAINERS}
    return {
        "PYDANTIC_DISABLE_PLUGINS": "__all__",  # to look for any takes an eighth of wandb's import
        **ours,
        "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root,
        "PYTHONSAFEPATH": "1",  # a file queue.py beside the user's script is not ours to import
        "CUDA_VISIBLE_DEVICES": "",
    }
