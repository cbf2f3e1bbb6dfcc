"""What git says of the code that trains. Asks for no password and leaves no process behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from fasttrack.redaction import redact

_TIMEOUT_S = 2.0
_KILL_S = 0.5  # a process that waits for a dead disk cannot be killed: go on without it
_ENVIRONMENT = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}


def ask_about_code(*arguments: str, timeout_s: float = _TIMEOUT_S) -> str | None:
    """Return git's answer about the repository that the running program belongs to.

    That is the one that the program's file lies in, else the one of the working directory. A
    program that is installed into Python's environment says nothing of the code it trains.

    Args:
        arguments: git's.
        timeout_s: git is given up after this many seconds.

    Returns:
        What git printed; None without git, without a repository, or where git has no answer.

    Raises:
        TimeoutError: git hangs.
    """
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    if program and not Path(program).absolute().is_relative_to(sys.prefix):
        answer = _ask(arguments, os.path.dirname(os.path.realpath(program)), timeout_s)
        if answer is not None:
            return answer
    return _ask(arguments, None, timeout_s)


def describe_repository(timeout_s: float = _TIMEOUT_S) -> dict[str, str | bool | None] | None:
    """Return `commit`, `branch`, `dirty` and `remote` of the code; None without a repository.

    Each is None when it is not there or git does not say it in time: the commit of an empty
    repository, the branch of a detached head, `dirty` (changes to files that git knows) of a tree
    too large. The remote is `origin`, else the first, without credentials. Blocks for some
    milliseconds, for `timeout_s` if git hangs, never for the network.
    """
    try:
        root = ask_about_code("rev-parse", "--show-toplevel", timeout_s=timeout_s)
    except TimeoutError:
        return None
    if not root:
        return None

    def ask(*arguments: str) -> str | None:
        try:
            return _ask(arguments, root, timeout_s)
        except TimeoutError:
            return None

    changes = ask("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": ask("rev-parse", "--verify", "--quiet", "HEAD"),
        "branch": ask("symbolic-ref", "--short", "--quiet", "HEAD"),
        "dirty": None if changes is None else bool(changes),
        "remote": _remote(ask("config", "--get-regexp", r"^remote\..*\.url$")),
    }


def _remote(listing: str | None) -> str | None:
    urls = dict(line.partition(" ")[::2] for line in (listing or "").splitlines())
    url = urls.get("remote.origin.url") or next(iter(urls.values()), None)
    return None if url is None else str(redact(url))


def _ask(arguments: tuple[str, ...], directory: str | None, timeout_s: float) -> str | None:
    try:
        process = subprocess.Popen(
            ["git", "-c", "core.fsmonitor=false", *arguments],  # no daemon that stays
            cwd=directory,
            env={**os.environ, **_ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="surrogateescape",
            start_new_session=True,  # a group of its own, to be killed whole
        )
    except OSError:  # no git, or the directory is gone
        return None
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_KILL_S)
        raise TimeoutError("git does not answer") from error
    return output.strip() if process.returncode == 0 else None
