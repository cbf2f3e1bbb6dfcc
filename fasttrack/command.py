"""The command line that a user can type here to call `fasttrack`."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from fasttrack.handler_errors import is_handlers

_NAME = "fasttrack"
_MAIN = Path(__file__).with_name("__main__.py")


def spell_command(*arguments: str) -> str:
    """Return the command that calls this `fasttrack` with `arguments`, ready to be typed.

    It begins with "fasttrack" where that is what the shell finds, else with the path by which the
    program was called, or with the Python that it runs in.
    """
    return shlex.join([*_program(sys.argv[0]), *arguments])


def spell_tool(name: str, *arguments: str) -> str:
    """Return the command that calls a program that was installed beside this Python."""
    beside = str(Path(sys.executable).with_name(name))
    hidden = shutil.which(name) is None and os.access(beside, os.X_OK)
    return shlex.join([beside if hidden else name, *arguments])


def _program(called: str) -> list[str]:
    on_path = shutil.which(_NAME)
    if _is_file(called, _MAIN):
        return [_spell_python(), "-m", _NAME]
    script = called
    if Path(called).name != _NAME:  # a training script, which may name a command too
        script = str(Path(sys.executable).with_name(_NAME))
    if on_path is not None and _is_file(script, on_path):
        return [_NAME]
    return [script] if os.access(script, os.X_OK) else [_spell_python(), "-m", _NAME]


def _spell_python() -> str:
    for name in ("python", "python3"):
        if shutil.which(name) == sys.executable:  # the path itself: links lead out of environments
            return name
    return sys.executable or "python"


def _is_file(path: str, other: str | Path) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError as error:
        if is_handlers(error):
            raise
        return False
