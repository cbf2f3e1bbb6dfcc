"""Objects in processes of their own, so that several can be measured by turns of milliseconds."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.lib.isolation import private_home
from bench.lib.processes import (
    check_build,
    end,
    environment,
    importable,
    imported,
    kill_descendants,
    last_words,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_MODULE = "bench.lib.served"  # this one, also where it runs as __main__
_TIMEOUT_S = 300.0


class Served:
    """An object in a process of its own that answers calls of its methods; JSON both ways.

    While nobody calls, the process waits and its threads go on.
    """

    def __init__(self, build: Callable[..., Any], *arguments: Any, path: Path) -> None:
        """Start the process, which imports from `path`; the first call waits until it is ready."""
        self._name = importable(build)
        self._directory = tempfile.TemporaryDirectory(
            prefix="fasttrack-bench-", ignore_cleanup_errors=True
        )
        self._said = Path(self._directory.name, "said.txt")
        with self._said.open("w") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, self._name, json.dumps(arguments)],
                cwd=self._directory.name,  # -m looks there first
                env=environment(path, self._directory.name),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )
        self._is_ready = False

    def call(self, name: str, *arguments: Any) -> Any:
        """Return what the method returns.

        Raises:
            RuntimeError: it failed, or took too long; the message holds what the process said.
        """
        if not self._is_ready:
            self._answer()
            self._is_ready = True
        assert self._process.stdin is not None
        try:
            print(json.dumps([name, *arguments]), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            self._fail("ended")
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], _TIMEOUT_S)[0]:
            self._fail("took too long")
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._fail("failed")
        return json.loads(line)

    def _fail(self, how: str) -> None:
        raise RuntimeError(f"{self._name} {how}:\n{last_words(self._said)}")

    def close(self) -> None:
        """End the process, and what it has started; nothing is finished."""
        end(self._process)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._directory.cleanup()


def _serve(name: str, arguments: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    with private_home():
        served = imported(name)(*json.loads(arguments))
        print("null", file=answers, flush=True)
        for line in sys.stdin:
            method, *rest = json.loads(line)
            found = getattr(served, method)(*rest)
            check_build()
            print(json.dumps(found), file=answers, flush=True)
        kill_descendants()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
