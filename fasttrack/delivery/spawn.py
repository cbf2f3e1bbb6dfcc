"""How a delivery process is started."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def delivery_command(target: Path) -> list[str]:
    """Return the command that delivers `target`, a segment or a run's directory."""
    return [sys.executable, "-m", "fasttrack.delivery", str(target)]


def delivery_environment() -> dict[str, str]:
    """Return its environment: this package is found, and nothing else by accident."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root,
        "PYTHONSAFEPATH": "1",  # a file queue.py beside the user's script is not ours to import
        "CUDA_VISIBLE_DEVICES": "",
    }
