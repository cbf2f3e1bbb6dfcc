"""Scripts in processes that need not import torch: forks of one that has (`fork_server.py`).

A start and its imports cost 1.4 s of CPU, a fork a tenth of that. What a script sees and what it
leaves behind is as after a start, but for its parent, which is the server.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from support.fork_server import MOST_BYTES

if TYPE_CHECKING:
    from pathlib import Path

_SERVE = "exec(*__import__('support.fork_server', fromlist=['serve']).serve({}, {!r}))"
_ANSWER_GUARD_S = 100.0  # the first answer comes after the imports
# Beginnings of variables that no import reads, in Python or in C. Where another one differs, which
# may count while modules are imported (OMP_NUM_THREADS), a script is forked from another server.
READ_LATER = (
    *("CUDA_VISIBLE_DEVICES", "FASTTRACK_", "GIT_", "HOME", "LOCAL_", "MASTER_", "PYTEST_"),
    *("RANK", "SLURM_", "TMPDIR", "WANDB_", "WORLD_SIZE"),
)


class ForkServerError(Exception):
    """The server is gone, by no fault of the script's, nor of what it tests."""


class ForkServer:
    """The process that scripts of this one are forked from; it ends with this one at the latest.

    Threads: any may call.
    """

    def __init__(self, environment: dict[str, str], module: str) -> None:
        """Start it; it imports `module` meanwhile."""
        # Scripts get pipes, mostly: the streams that the server opens must be of that kind.
        self._said, says = os.pipe()
        os.set_blocking(self._said, False)
        self._lock = threading.Lock()
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.settimeout(_ANSWER_GUARD_S)
        with theirs:
            subprocess.run(
                [sys.executable, "-W", "error", "-c", _SERVE.format(theirs.fileno(), module)],
                check=True,
                stdin=theirs.fileno(),
                stdout=says,
                stderr=says,
                pass_fds=[theirs.fileno()],
                env=environment,
            )
        os.close(says)
        atexit.register(self.close)

    def close(self) -> None:
        """Have the server end; its forks go on."""
        atexit.unregister(self.close)
        self._connection.close()
        os.close(self._said)

    def start(self, script: dict[str, Any], streams: list[int]) -> int:
        """Return the id of a fork that runs `script` with these three streams."""
        return self._ask(script, streams)

    def status(self, pid: int) -> int:
        """Return the status of a fork, as `os.waitpid` has it; waits until it has ended."""
        return self._ask(pid, [])

    def _ask(self, what: object, streams: list[int]) -> int:
        message = json.dumps(what).encode()
        assert len(message) <= MOST_BYTES, "the script and its environment are too long to be sent"
        try:
            with self._lock:
                socket.send_fds(self._connection, [message], streams)
                return int(self._connection.recv(64))
        except (OSError, ValueError) as error:  # an end is no number
            said = ""
            with contextlib.suppress(BlockingIOError):  # it lives, and has said nothing
                said = os.read(self._said, MOST_BYTES).decode(errors="replace")
            self.close()
            for key in [key for key, server in _servers.items() if server is self]:
                del _servers[key]
            raise ForkServerError(f"the server of forks is gone; it said: {said!r}") from error


_servers: dict[str, ForkServer] = {}


def _server_for(environment: dict[str, str], module: str) -> ForkServer:
    early = {k: v for k, v in environment.items() if not k.startswith(READ_LATER)}
    key = json.dumps([module, early], sort_keys=True)
    if key not in _servers:
        _servers[key] = ForkServer(environment, module)
    return _servers[key]


class Start(subprocess.Popen[str]):
    """A script's process, which imports for itself whatever it needs."""

    def __init__(
        self,
        source: str,
        *arguments: str,
        warnings: str | None,
        environment: dict[str, str],
        cwd: Path | None = None,
        **streams: int | None,
    ) -> None:
        """Start it.

        Args:
            source: the script's.
            arguments: its `sys.argv[1:]`.
            warnings: what `-W` says; None: nothing.
            environment: all that it has.
            cwd: the directory that it works in; None: this process's.
            streams: `stdin`, `stdout` and `stderr`, as `Popen` takes them; they are texts.
        """
        options = [] if warnings is None else ["-W", warnings]
        command = [sys.executable, *options, "-c", source, *arguments]
        super().__init__(command, text=True, env=environment, cwd=cwd, **streams)  # type: ignore[call-overload]


class Fork(Start):
    """A script's process, to be used as any of `Popen`, though it is no child of this one."""

    imported = "support.trackers"
    """What the server has imported: torch, numpy, fasttrack, and what most scripts use of these."""

    def _execute_child(self, command: list[str], *given: Any) -> None:
        # What Popen does to start a process, of which it has made the pipes; -1 is this one's own.
        directory, environment, pipes = given[4], given[5], given[9:15]
        ends = enumerate((pipes[0], pipes[3], pipes[5]))
        place = command.index("-c")
        script = {
            "command": command,
            "source": command[place + 1],
            "arguments": command[place + 2 :],
            "warnings": command[2] if place > 1 else None,
            "environment": environment,
            "directory": os.getcwd() if directory is None else str(directory),
        }
        try:
            self._server = _server_for(environment, self.imported)
            streams = [number if end == -1 else end for number, end in ends]
            self.pid = self._server.start(script, streams)
            self._child_created = True
        finally:
            self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]
        self._descriptor = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """Return the exit code; None as long as there is none."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the process; return its exit code."""
        if self.returncode is None:
            if not wait([self._descriptor], timeout):
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.returncode = os.waitstatus_to_exitcode(self._server.status(self.pid))
            os.close(self._descriptor)
        return self.returncode


class TrainingFork(Fork):
    """The same of a server that has also imported what training scripts do."""

    imported = "support.training_imports"


class DeliveryFork(Fork):
    """The same of a server that has imported wandb, and neither torch nor numpy."""

    imported = "support.delivery_imports"
