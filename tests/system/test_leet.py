"""`wandb leet`, W&B's terminal program, shows our runs: offline, and while they are written."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import shlex
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from support.runs import HANG_GUARD_S, make_tracker, offline_dirs, wait_until

from fasttrack.cli.app import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROWS, _COLUMNS = 50, 160
_ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|[\]P_][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])")


class Terminal:
    """A program in a terminal of its own, and what it has written there so far."""

    def __init__(self, command: list[str]) -> None:
        """Start the program."""
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "", "LINES": ""}
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
        )
        os.close(theirs)
        self._written = b""

    def read_until(self, text: str) -> bool:
        """Read until `text` has been written; return whether it was."""
        deadline = time.monotonic() + HANG_GUARD_S
        while text not in self.text:
            if time.monotonic() > deadline:
                return False
            if select.select([self._ours], [], [], 0.5)[0]:
                try:
                    self._written += os.read(self._ours, 65536)
                except OSError:  # the program has ended
                    return text in self.text
        return True

    @property
    def text(self) -> str:
        """What was written, without what moves the cursor and colours."""
        return _ESCAPE.sub("", self._written.decode(errors="replace"))

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    def end(self) -> int:
        """Wait for the program's end; return its exit code."""
        with contextlib.suppress(OSError):
            while self.process.poll() is None:  # what it writes last must be taken
                if select.select([self._ours], [], [], 0.1)[0]:
                    os.read(self._ours, 65536)
        return self.process.wait(HANG_GUARD_S)

    def close(self) -> None:
        """Let go of it."""
        self.process.kill()
        self.process.wait(HANG_GUARD_S)
        os.close(self._ours)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    """Terminals to be closed."""
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


def test_the_command_that_show_prints_draws_the_run_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminals: list[Terminal]
) -> None:
    """Without an account, without network; a metric that begins later appears by itself."""
    monkeypatch.chdir(tmp_path)
    bin_dir = Path(sys.executable).parent  # elsewhere the command has the program's path
    monkeypatch.setenv("PATH", f"{bin_dir}{os.pathsep}{os.environ['PATH']}")
    with make_tracker(resume_id="leet1") as tracker:
        for step in range(30):
            tracker.log_metrics({"loss/total": 1 / (step + 1)}, step)
        wait_until(lambda: any(len(p.read_bytes()) > 2000 for p in tmp_path.rglob("run-*.wandb")))
        shown = CliRunner(env={"COLUMNS": "200"}).invoke(cli, ["show", "leet1"]).stdout
        (command,) = re.findall(r"^ *in a terminal +(\S.*)$", shown, flags=re.MULTILINE)
        program, *arguments = shlex.split(command)
        terminal = Terminal([str(bin_dir / program), *arguments])
        terminals.append(terminal)

        assert terminal.read_until("loss/total"), terminal.text
        for step in range(30, 60):
            tracker.log_metrics({"eval/accuracy": step / 60}, step)
        assert terminal.read_until("eval/accuracy"), terminal.text
        terminal.press("q")
        assert terminal.end() == 0

    (offline,) = offline_dirs(tmp_path)
    assert command == f"wandb leet wandb/{offline.name}"
