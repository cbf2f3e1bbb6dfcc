"""End a process that has a client in it: soon, whatever the client does at the end."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

_EXIT_S = 30.0  # what clients have at the end, when Python calls what they have registered


def leave_with(main: Callable[[], int]) -> NoReturn:
    """Call `main`, and end the process with the exit code that it returns.

    What clients have registered for the end of the process is called as ever, but may not keep it:
    one that waits for its helper program may wait for good. After that the interpreter is not taken
    to pieces, which costs as much as a short run.

    To be called before clients are imported, on the main thread.
    """
    code = 1

    def end() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)

    atexit.register(end)  # the first that is registered is the last that is called
    try:
        code = main()
    except SystemExit as wrong:  # the command line
        code = wrong.code if isinstance(wrong.code, int) else 1
    leaving = threading.Timer(_EXIT_S, os._exit, (code,))
    leaving.daemon = True
    leaving.start()
    sys.exit(code)
