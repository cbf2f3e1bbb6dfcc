"""A process that has imported what scripts import, and becomes any of them by a fork.

`forks.py` starts it as `python -W error -c "exec(*...serve(3, ...))"`, 3 being its socket. In the
server `serve` never returns. In a fork it returns the script's code, for `exec` to run right where
the interpreter runs what it was started with: exceptions, exit handlers, and the interpreter's end
take their usual course. Of the server a script sees one frame, `File "<string>", line 1` in
tracebacks.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import socket
import sys
import tempfile
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import CodeType

MOST_BYTES = 200_000
"""The longest message; the kernel would take little more."""


def serve(descriptor: int, module: str) -> tuple[CodeType, dict[str, Any]]:
    """Fork for each script that is asked for, until the socket's other end is closed.

    A message is either a script, with its three streams, or the id of a fork to wait for. The
    answer is the fork's id, or its status as `os.waitpid` has it. A fork that has ended is left as
    it is until its status is asked for, as a parent would: nobody else may get its id.

    Args:
        descriptor: the socket's.
        module: what to import; the more, the more scripts would find what they may not. Its `SETS`
            names the variables that imports set: scripts have them from the beginning.

    Returns:
        In forks only: the script's code and the names of its `__main__`.
    """
    if os.fork():  # else it would be among the children that tests look for
        os._exit(0)
    before = dict(os.environ)
    names = getattr(importlib.import_module(module), "SETS", ())
    set_here = {name: os.environ[name] for name in names if name in os.environ}
    assert os.environ == before | set_here, "an import has changed the environment of all scripts"
    assert len(os.listdir("/proc/self/task")) == 1, "an import has started a thread: not to fork"
    gc.collect()
    gc.freeze()
    connection = socket.socket(fileno=descriptor)
    while True:
        message, streams, _, _ = socket.recv_fds(connection, MOST_BYTES, 3)
        if not message:
            os._exit(0)
        asked = json.loads(message)
        if not streams:
            _, status = os.waitpid(asked, 0)
            connection.send(str(status).encode())
            continue
        pid = os.fork()
        if not pid:
            connection.close()
            return _become(asked, streams, set_here)
        connection.send(str(pid).encode())
        for stream in streams:
            os.close(stream)


def _become(
    script: dict[str, Any], streams: list[int], set_here: dict[str, str]
) -> tuple[CodeType, dict[str, Any]]:
    """Make this process what a start would have made it."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(script["directory"])
    os.environ.clear()
    os.environ.update(set_here | script["environment"])
    sys.argv[1:] = script["arguments"]
    sys.orig_argv[:] = script["command"]
    _heed(script["warnings"])
    _forget()
    main = _new_main()
    return compile(script["source"], "<string>", "exec", dont_inherit=True), vars(main)


def _new_main() -> ModuleType:
    """Return a `__main__` that is not among what `gc.freeze` has kept from being deleted."""
    old, new = sys.modules["__main__"], ModuleType("__main__")
    vars(new).update(vars(old))
    new.__annotations__ = {}
    sys.modules["__main__"] = new
    return new


def _heed(action: str | None) -> None:
    """Do with warnings as `-W action` says, or as without it, not as the server was told."""
    actions = [] if action is None else [action]
    filters: list[Any] = warnings.filters  # type: ignore[assignment]
    place = filters.index(("error", None, Warning, None, 0))
    filters[place : place + 1] = [(each, None, Warning, None, 0) for each in actions]
    sys.warnoptions[:] = actions
    with warnings.catch_warnings():  # its end makes the change known
        pass


def _forget() -> None:
    """Drop what imports have noted of the server, and what must not be alike in two scripts."""
    tempfile.tempdir = None
    if "torch" not in sys.modules:
        return
    import multiprocessing.process

    import torch

    multiprocessing.process.ORIGINAL_DIR = str(Path.cwd())  # type: ignore[attr-defined]
    torch.default_generator.seed()
