"""The tests' W&B server, on this machine, in a process of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

from bench.lib.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def local_server() -> Iterator[dict[str, str]]:
    """Run the server; give the environment that points clients at it."""
    command = [sys.executable, "-m", "support.wandb_server"]
    with subprocess.Popen(command, cwd=ROOT / "tests", stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            url = server.stdout.readline().strip()
            yield {"WANDB_BASE_URL": url, "WANDB_API_KEY": "local" + "0" * 40}
        finally:
            server.terminate()
