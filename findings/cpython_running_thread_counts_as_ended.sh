#!/usr/bin/env bash
# CPython 3.11: where a signal handler raises while the main thread is in `Thread.is_alive()` or
# `Thread.join()`, Python takes a thread that runs on for ended, for good: `is_alive()` is False and
# `join()` returns at once, while the thread goes on with its work.
#
# Who ends a worker by `join()` and then closes what it writes to loses what it had in hand: a
# preemption handler that raises is enough. The internal lock that a running thread holds is taken
# for one that the interrupted call had acquired, and released.
#
# Expected output:
#   is_alive: False, join returns at once, the thread runs on
#   as expected
#
# Exits with 0 while Python behaves so, with 1 once it does not (3.13 keeps that state otherwise).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/try.py" <<'PY'
import signal
import sys
import threading
import time


class StopNow(Exception):
    """What the handler raises."""


def handler(signum, frame):
    raise StopNow


def work():
    global beats
    while True:
        beats += 1
        time.sleep(0.001)


if sys.version_info[:2] != (3, 11):
    sys.exit(f"this is of Python 3.11, not of {sys.version.split()[0]}")
beats = 0
signal.signal(signal.SIGALRM, handler)
thread = threading.Thread(target=work, daemon=True)
thread.start()
deadline = time.monotonic() + 60
while thread.is_alive() and time.monotonic() < deadline:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        while True:
            thread.is_alive()
    except StopNow:
        pass
alive, before, began = thread.is_alive(), beats, time.monotonic()
thread.join(30)
at_once = time.monotonic() - began < 10
time.sleep(0.5)
runs_on = beats > before + 10
print(
    f"is_alive: {alive}, join {'returns at once' if at_once else 'waits'}, "
    f"the thread {'runs on' if runs_on else 'has ended'}"
)
if (alive, at_once, runs_on) != (False, True, True):
    sys.exit("Python behaves differently now")
print("as expected")
PY
python3 "$folder/try.py"
