"""Listen to a process that delivers or verifies a run, and notice when it lies still."""

from __future__ import annotations

import math
import os
import select
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fasttrack.delivery.children import children_of, kill_children

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SILENCE_S = 120.0
"""How long one that has told something may lie still; it has a sign of life every 5 s."""

_START_S = 300.0  # what one may take to give its first: imports, mostly
_SAY_S = 15.0
_TICK_S = 1.0
_STOP_S = 10.0  # what it has to end when it is told to


class SilentError(Exception):
    """A process is listened to no longer; says why."""


class UnwantedError(Exception):
    """A process is listened to no longer: nobody wants to know what it does."""


def lines_of(
    process: subprocess.Popen[bytes],
    *,
    on_silence: Callable[[str], object] = lambda why: None,
    silence_s: float = SILENCE_S,
    timeout_s: float | None = None,
    unwanted: Callable[[], bool] = lambda: False,
) -> Iterator[bytes]:
    """Yield the lines that a child process writes to its stdout, until it closes it.

    Args:
        process: the child.
        on_silence: told in words, once a silence, that it lies still.
        silence_s: after how long a silence it is given up.
        timeout_s: after how long it is given up however much it says; None: never.
        unwanted: asked now and then whether nobody wants to know any more.

    Raises:
        SilentError: it was given up.
        UnwantedError: nobody wants to know.
    """
    assert process.stdout is not None
    stdout = process.stdout.fileno()
    until_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
    poll = select.poll()
    poll.register(stdout)
    tick_s = min(_TICK_S, silence_s / 4)
    torn, silent_s, heard, said = b"", 0.0, False, False
    while True:
        if unwanted():
            raise UnwantedError
        if time.monotonic() >= until_s:
            raise SilentError(f"it took longer than {timeout_s:g} s")
        if poll.poll(1000 * tick_s):
            data = os.read(stdout, 65536)
            if not data:
                return
            silent_s, heard, said = 0.0, True, False
            *lines, torn = (torn + data).split(b"\n")
            yield from lines
            continue
        if process.poll() is not None:  # and a child of its own holds the pipe
            return
        silent_s += tick_s  # not by the clock: while this process was stopped, so was that one
        if silent_s >= (silence_s if heard else max(silence_s, _START_S)):
            raise SilentError(f"{_state(process.pid)}; it was ended after {silent_s:.0f} s")
        if silent_s >= min(_SAY_S, silence_s / 2) and not said:
            said = True
            on_silence(_state(process.pid))


def _state(pid: int) -> str:
    for child in children_of(os.getpid()):
        if child.pid == pid and child.stopped:
            return f"its process {pid} is stopped ('kill -CONT {pid}' lets it go on)"
    return f"its process {pid} gives no sign of life"


@contextmanager
def ended_with_block(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """End a child process with the block: in order, but where it lies still at once."""
    try:
        yield process
    except SilentError:
        kill_children(process.pid)
        process.kill()
        raise
    finally:
        with process:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
