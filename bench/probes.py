"""Instruments that the targets share: new processes, what processes use, and who holds the GIL."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.measure import private_wandb

if TYPE_CHECKING:
    from collections.abc import Callable

_ROOT = Path(__file__).resolve().parent.parent
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

# --- new processes ---------------------------------------------------------------------------


def call_in_new_process(
    function: Callable[..., Any], *arguments: Any, timeout_s: float = 900.0
) -> Any:
    """Return what `function` of a module returns, called in a fresh interpreter; JSON both ways.

    It runs with one OpenMP thread and `private_wandb`.

    Raises:
        RuntimeError: it failed, or took longer than `timeout_s`; the message holds what it said.
    """
    spec = sys.modules[function.__module__].__spec__  # knows the name of what runs as __main__
    assert spec is not None
    name = f"{spec.name}:{function.__qualname__}"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bench.probes", name, json.dumps(arguments)],
            cwd=_ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{name} was not done in {timeout_s:.0f} s") from error
    if done.returncode != 0:
        raise RuntimeError(f"{name} failed ({done.returncode}):\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _answer(name: str, arguments: str) -> None:
    module, _, function = name.partition(":")
    with private_wandb():
        result = getattr(importlib.import_module(module), function)(*json.loads(arguments))
    print(json.dumps(result))


# --- what processes use ----------------------------------------------------------------------


def memory_mb(field: str = "VmRSS", pid: int | str = "self") -> float:
    """Return a process's resident memory in MiB, now (VmRSS) or at its highest (VmHWM).

    Raises:
        OSError: the process is gone.
        KeyError: it has ended, and only its exit code is left.
    """
    text = Path(f"/proc/{pid}/status").read_text()
    lines = dict(line.split(":", 1) for line in text.splitlines())
    return int(lines[field].split()[0]) / 1024


def descendants(pid: int) -> list[int]:
    """Return the processes that `pid` started, and what these started, as far as they live."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in listing.read_text().split()]
        except OSError:  # the thread has ended
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def kill_descendants() -> None:
    """End all processes that this one started, at once."""
    for pid in descendants(os.getpid()):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


class Usage(NamedTuple):
    """What one process has used so far."""

    cpu_s: float
    peak_mb: float


class DescendantsWatch:
    """Keep what each process started by this one was last seen to have used, by its name."""

    def __init__(self) -> None:
        """Have seen nobody."""
        self._seen: dict[int, tuple[str, Usage]] = {}

    def look(self) -> None:
        """Look at all that live."""
        for pid in descendants(os.getpid()):
            try:
                name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
                ticks = sum(map(int, rest.split()[11:13]))
                usage = Usage(ticks / _TICKS_PER_S, memory_mb("VmHWM", pid))
            except (OSError, KeyError):  # it has just ended
                continue
            self._seen[pid] = (name.partition("(")[2], usage)

    def total(self) -> Usage:
        """Return the processes' CPU time together, and their peaks of memory together."""
        used = [usage for _, usage in self._seen.values()]
        return Usage(sum(usage.cpu_s for usage in used), sum(usage.peak_mb for usage in used))

    def by_name(self) -> dict[str, Usage]:
        """Return CPU time and largest peak of memory by the programs' names."""
        names: dict[str, Usage] = {}
        for name, usage in self._seen.values():
            so_far = names.get(name, Usage(0.0, 0.0))
            names[name] = Usage(so_far.cpu_s + usage.cpu_s, max(so_far.peak_mb, usage.peak_mb))
        return names


# --- who holds the GIL -----------------------------------------------------------------------


class Burst(NamedTuple):
    """A time for which a thread held the GIL: from getting it to giving it up by itself."""

    start_s: float  # time.perf_counter()
    end_s: float
    cpu_s: float


class GilBursts:
    """Note each burst of one thread under the GIL.

    A thread gives the GIL up by itself only where a C function does so around something that may
    wait. Those that fasttrack's worker calls are wrapped here: `os.write`, `os.read`, `time.sleep`,
    and `acquire` of a lock that is taken. Between two of them it holds the GIL, unless another
    thread has asked for it for longer than the switch interval (5 ms). What counts is the thread's
    CPU time in between: a thread that the system has taken off its core while it held the GIL looks
    slow on the wall clock, through no fault of its own. A release that is not in the list (torch's
    kernels, `waitpid`) joins two bursts: the figures are an upper bound.

    The wrappers cost about 1 us per release, most of it outside of the bursts. Install them before
    the tracker is made, in a process of its own: they stay.

    Threads: `watch` and `bursts` on any; the rest on the watched one.
    """

    def __init__(self) -> None:
        """Replace the functions."""
        self._thread_id: int | None = None
        self._start_s = self._start_cpu_s = 0.0
        self._bursts: list[tuple[float, float, float]] = []
        os.write, os.read = self._wrapped(os.write), self._wrapped(os.read)
        time.sleep = self._wrapped(time.sleep)
        make_lock = threading.Lock
        threading.Lock = lambda: _WatchedLock(make_lock(), self)  # type: ignore[assignment,return-value]

    def watch(self, thread_name: str) -> None:
        """Note from now on, and anew, the bursts of the thread of that name."""
        (thread,) = (t for t in threading.enumerate() if t.name == thread_name)
        self._thread_id = None
        self._bursts = []
        self._start_s = 0.0
        self._thread_id = thread.ident

    def bursts(self) -> list[Burst]:
        """Stop, and return what was noted, oldest first."""
        self._thread_id = None
        return [Burst(*times) for times in self._bursts.copy()]

    def released(self) -> None:
        """Note that the calling thread is about to give up the GIL."""
        cpu_s, now_s = time.thread_time(), time.perf_counter()
        if self._start_s:
            self._bursts.append((self._start_s, now_s, cpu_s - self._start_cpu_s))

    def taken(self) -> None:
        """Note that the calling thread has the GIL again."""
        self._start_s = time.perf_counter()
        self._start_cpu_s = time.thread_time()

    def is_watched(self) -> bool:
        """Return whether the calling thread is the one."""
        return threading.get_ident() == self._thread_id

    def _wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if not self.is_watched():
                return function(*arguments, **named)
            self.released()
            try:
                return function(*arguments, **named)
            finally:
                self.taken()

        return call


class _WatchedLock:
    """A lock whose `acquire` tells `GilBursts` when it has to wait."""

    def __init__(self, lock: Any, bursts: GilBursts) -> None:
        self._lock = lock
        self._bursts = bursts

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._lock.acquire(False):
            return True
        if not blocking or timeout == 0:
            return False
        watched = self._bursts.is_watched()
        if watched:
            self._bursts.released()
        try:
            return bool(self._lock.acquire(True, timeout))
        finally:
            if watched:
                self._bursts.taken()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)


if __name__ == "__main__":
    _answer(*sys.argv[1:])
