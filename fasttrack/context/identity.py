"""Who is training: what W&B's overview page shows of the process that it never sees."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

from fasttrack.context.redaction import redact_argv


def identify_trainer() -> dict[str, Any]:
    """Return who the trainer is, for W&B's overview page."""
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        cwd = Path.cwd()
    except FileNotFoundError:  # somebody deleted it
        cwd = Path("/")
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "executable": sys.executable,
        "argv": redact_argv(sys.argv),
        "program": program,
        "program_relpath": os.path.relpath(program, cwd) if program else None,
        "cwd": str(cwd),
    }
