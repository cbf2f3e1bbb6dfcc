"""Who is training: what W&B's overview page shows of the process that it never sees."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from fasttrack.context.config import encodable
from fasttrack.redaction import redact_argv


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The process that trains; the fields are those of the journal's header."""

    pid: int
    host: str
    executable: str
    argv: tuple[str, ...]
    program: str | None
    program_relpath: str | None
    cwd: str


def identify_trainer() -> Identity:
    """Return who this process is, its command line without secrets."""
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        cwd = Path.cwd()
    except FileNotFoundError:  # somebody deleted it
        cwd = Path("/")
    return Identity(
        pid=os.getpid(),
        host=socket.gethostname(),
        executable=encodable(sys.executable or ""),
        argv=tuple(encodable(argument) for argument in redact_argv(sys.argv)),
        program=encodable(program) if program else None,
        program_relpath=encodable(os.path.relpath(program, cwd)) if program else None,
        cwd=encodable(str(cwd)),
    )
