"""A trap for system calls: Linux's seccomp filters. Imports nothing of ours.

For a process of its own: the filter cannot be taken off again.
"""

from __future__ import annotations

import ctypes
import faulthandler
import platform
import signal
import struct
import sys
from pathlib import Path

# write, rt_sigreturn, exit_group
_CALLS = {"x86_64": (1, 15, 231), "aarch64": (64, 139, 94)}
_CLOCKS = ("tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter")
_CLOCK_SOURCE = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _TRAP = 0x7FFF0000, 0x00030000
_FIRST_ARGUMENT = 16  # its place in struct seccomp_data; the call's number is at 0
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2
_STDERR = 2


def why_not() -> str | None:
    """Return why system calls cannot be trapped here, or None."""
    if sys.platform != "linux" or platform.machine() not in _CALLS:
        return "the filter is written for Linux on x86-64 and ARM64"
    if "Seccomp:" not in Path("/proc/self/status").read_text():
        return "this kernel has no system-call filters"
    clock = _CLOCK_SOURCE.read_text().strip() if _CLOCK_SOURCE.exists() else "unknown"
    return None if clock in _CLOCKS else f"reading this machine's clock ({clock}) is a system call"


def trap_system_calls() -> None:
    """Have every later system call of this thread print the Python stack on stderr, and fail.

    Only writing to stderr and leaving the process go through. Reading the clock is no system call.
    """
    write, sigreturn, exit_group = _CALLS[platform.machine()]
    program = [
        (_LOAD, 0, 0, 0),
        (_JUMP_IF_EQUAL, 5, 0, sigreturn),
        (_JUMP_IF_EQUAL, 4, 0, exit_group),
        (_JUMP_IF_EQUAL, 0, 2, write),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_JUMP_IF_EQUAL, 1, 0, _STDERR),
        (_RETURN, 0, 0, _TRAP),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    whole = struct.pack("@HP", len(program), ctypes.addressof(code))
    faulthandler.register(signal.SIGSYS, all_threads=False)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(_PR_SET_SECCOMP, _FILTER, whole, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the kernel takes no filter")
