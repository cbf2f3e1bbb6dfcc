"""Programs that file permissions hold for, also where the tests run as root."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.runs import HANG_GUARD_S, script_environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Root stays root, but without the capabilities by which it passes over permissions.
_WITHOUT_CAPABILITIES = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
if os.geteuid() == 0:
    for capability in CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH:
        if ctypes.CDLL(None, use_errno=True).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            sys.exit(77)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
_CANNOT = 77


def run_unprivileged(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run this Python with `arguments` as a user whom permissions concern; return what it said."""
    result = subprocess.run(
        [sys.executable, "-c", _WITHOUT_CAPABILITIES, *arguments],
        capture_output=True,
        text=True,
        timeout=HANG_GUARD_S,
        env={**script_environment(), **variables},
    )
    if result.returncode == _CANNOT:
        pytest.skip("root may not give up its capabilities here")
    return result


def make_read_only(directory: Path) -> Iterator[Path]:
    """Take away the right to write in `directory` and all below it, until the generator ends."""
    modes = {path: path.stat().st_mode for path in (directory, *directory.rglob("*"))}
    for path, mode in modes.items():
        os.chmod(path, mode & ~0o222)
    yield directory
    for path, mode in modes.items():
        os.chmod(path, mode)
