"""Who delivers a run, for whoever asks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

from support.unprivileged import run_unprivileged

from fasttrack.delivery.run_lock import describe_holder, locked
from fasttrack.journal.run_directory import lock_path

if TYPE_CHECKING:
    from pathlib import Path


def test_only_one_holds_it_and_it_says_who(tmp_path: Path) -> None:
    """A second `sync` was told that the run's own process delivers it, which was long gone."""
    with locked(tmp_path, "fasttrack sync") as first:
        with locked(tmp_path, "the run's own delivery") as second:
            pass
        holder = describe_holder(tmp_path)
    with locked(tmp_path, "another") as third:
        pass

    assert (first, second, third) == (True, False, True)
    assert holder.startswith(f"fasttrack sync (process {os.getpid()} on this machine) since 20")


def test_a_holder_that_is_stopped_is_told_so(tmp_path: Path) -> None:
    """Nobody would find out why it does not come to an end."""
    source = textwrap.dedent(
        f"""
        from pathlib import Path
        from fasttrack.delivery.run_lock import locked
        with locked(Path({str(tmp_path)!r}), "fasttrack sync"):
            print("held", flush=True)
            input()
        """
    )
    command = [sys.executable, "-c", source]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        holder = describe_holder(tmp_path)
        process.kill()

    assert f"which is stopped ('kill -CONT {process.pid}' lets it go on)" in holder


def test_a_note_that_tells_nothing_names_nobody(tmp_path: Path) -> None:
    """An older version's lock is empty; a copied one names a process that never was here."""
    holders = []
    for note in (b"", b"garbage", b"[]", b'{"pid":"x"}'):
        lock_path(tmp_path).write_bytes(note)
        holders.append(describe_holder(tmp_path))

    assert holders == ["another process"] * 4


def lock_twice(run_dir: Path) -> str:
    """Have somebody whom permissions concern hold a read-only run's lock twice; return how."""
    source = (
        "import sys; from pathlib import Path; from fasttrack.delivery.run_lock import locked\n"
        "run_dir = Path(sys.argv[1])\n"
        "with locked(run_dir, 'fasttrack verify') as a, locked(run_dir, 'fasttrack verify') as b:\n"
        "    print(a, b)"
    )
    run_dir.chmod(0o500)
    result = run_unprivileged("-c", source, str(run_dir))
    run_dir.chmod(0o700)
    return result.stdout + result.stderr


def test_a_copy_that_may_not_be_written_is_nobodys(tmp_path: Path) -> None:
    """Who only reads needs no lock, and has nowhere to make one."""
    assert lock_twice(tmp_path) == "True True\n"


def test_a_lock_that_may_only_be_read_keeps_two_apart_all_the_same(tmp_path: Path) -> None:
    """Somebody else's run, that the group may read."""
    lock_path(tmp_path).touch(0o400)

    assert lock_twice(tmp_path) == "True False\n"
