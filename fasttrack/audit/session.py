"""Audit a block of code: which lines make it wait for the accelerator, how often, how long.

A `TorchDispatchMode` times the operations that wait, below autograd: it sees a value that is read
from C++ as well as `.item()`, and autograd hands it on to its own threads. A `TorchFunctionMode`
would be cheaper and knows the methods' names, but torch.compile guards on it: entering the block
would compile every compiled function anew, and waits at graph breaks are lost (both seen with
torch 2.13). Under a dispatch mode that ignores what is compiled, compiled functions stay as they
are; a torch that does not know `ignore_compile_internals` runs them uncompiled meanwhile.

The price is several microseconds for each operation, which the device may use to catch up: waits
look shorter than they are without the audit. How much that may be is measured and reported.
"""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fasttrack.audit.findings import Finding, Findings, locate_caller, make_table
from fasttrack.audit.sync_warnings import SYNC_WARNINGS
from fasttrack.audit.waits import CUDA_SYNC, Rule, find_rule
from fasttrack.handler_errors import is_handlers
from fasttrack.notices import say

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from types import TracebackType

    from fasttrack.audit.sync_warnings import SyncWarnings

_CALIBRATION_ROUNDS = 3
_CALIBRATION_OPERATIONS = 100
_NVML_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"


class Audit:
    """Report the lines of a `with` block that wait for the accelerator; see the module.

    Waits that are asked for (`torch.cuda.synchronize()`) are no findings. Nothing is raised into
    the block, and what it computes is the same. Without an accelerator the block just runs.

    Threads: the one that enters the block is audited, and autograd's that work for it.
    """

    def __init__(
        self,
        watched: Collection[str] | None = None,
        *,
        silent: bool = False,
        sync_warnings: SyncWarnings = SYNC_WARNINGS,
    ) -> None:
        """Prepare; nothing happens before the block is entered.

        Args:
            watched: device types; None for the accelerators of this machine.
            silent: print nothing at the block's end.
            sync_warnings: listened to where CUDA is watched.
        """
        self._watched = watched
        self._silent = silent
        self._sync_warnings = sync_warnings
        self._stack = ExitStack()
        self._found = Findings()
        self._rules: dict[Any, Rule | None] = {}
        self._failed = False
        self._pid = 0
        self._thread_id = 0
        self._started_s = 0.0
        self._cost_s = 0.0
        self._mode: _AuditMode | None = None
        self._awaits_cuda = False
        self.devices: tuple[str, ...] = ()
        """The device types that are watched; empty where there is nothing to audit."""
        self.wall_s = 0.0
        """Seconds from the block's begin to its end; 0 before that."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found so far, the longest waits first."""
        return self._found.sorted()

    @property
    def wait_ms(self) -> float:
        """Milliseconds that all waits of known length took."""
        return sum(finding.total_ms or 0.0 for finding in self.findings)

    @property
    def operations(self) -> int:
        """How many operations went through the audit."""
        return 0 if self._mode is None else self._mode.operations

    @property
    def overhead_s(self) -> float:
        """About how much slower the audit itself made the block, in seconds."""
        return self.operations * self._cost_s

    def __enter__(self) -> Audit:
        """Begin to watch this thread; return the audit."""
        try:
            self._start()
            self._pid = os.getpid()
        except Exception as error:  # nothing may raise into training
            self._stop()
            self._fail(error)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop watching, and print the report."""
        try:
            if self._started_s:
                self.wall_s = perf_counter() - self._started_s
            self._stop()
            # A forked child leaves the block, too; and what did not begin has no report.
            if not self._silent and os.getpid() == self._pid:
                say(self.report())
        except Exception as failure:  # nothing may raise into training
            self._fail(failure)

    def __copy__(self) -> Audit:
        """Return the audit itself."""
        return self

    def __deepcopy__(self, memo: object) -> Audit:
        """Return the audit itself."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Be pickled as an audit that watches nothing, with what was found until now."""
        known = {"devices": self.devices, "wall_s": self.wall_s, "_found": self._found}
        return Audit, (), {**known, "_watched": (), "_silent": True}

    def report(self) -> str:
        """Return what was found as text, for people."""
        if not self.devices:
            return "audit: torch finds no accelerator here, so there is nothing to audit"
        findings = self.findings
        if not findings:
            return (
                f"audit: nothing waited for the device in {self.wall_s:.3f} s "
                f"({self.operations} operations)"
            )
        count = sum(finding.count for finding in findings)
        places = len({(finding.file, finding.line) for finding in findings})
        wait_ms = self.wait_ms
        share = wait_ms / 1000 / self.wall_s if self.wall_s else 0.0
        return "\n".join(
            [
                f"audit: {_number(count, 'wait')} for the device at {_number(places, 'line')}: "
                f"{wait_ms:.3f} ms, {share:.1%} of {self.wall_s:.3f} s",
                *make_table(findings),
                f"The audit made this about {self.overhead_s:.3f} s slower; without it, waits may "
                "be longer by up to as much.",
            ]
        )

    def _start(self) -> None:
        self.devices = tuple(find_accelerators() if self._watched is None else self._watched)
        if not self.devices:
            return
        self._found = Findings()
        self._thread_id = threading.get_ident()
        unwatched_s = _time_operations()
        mode = _AuditMode(self)
        self._stack.enter_context(mode)
        _time_operations()  # torch imports what it needs for the first
        self._cost_s = max(0.0, _time_operations() - unwatched_s)
        if "cuda" in self.devices:
            self._stack.enter_context(self._sync_warnings.listen(self._hear))
            self._awaits_cuda = not self._sync_warnings.switch_on()
        mode.operations = 0
        self._mode = mode
        self._started_s = perf_counter()

    def _stop(self) -> None:
        try:
            self._stack.close()
        except Exception as error:  # nothing may raise into training
            self._fail(error)

    def find_wait(
        self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str | None:
        """Return what the wait of an operation that is about to run is called, if it has one."""
        try:
            if self._awaits_cuda:
                self._awaits_cuda = not self._sync_warnings.switch_on()
            if operation not in self._rules:
                self._rules[operation] = find_rule(operation)
            rule = self._rules[operation]
            return None if rule is None else rule(args, kwargs, self.devices)
        except Exception as error:  # nothing may raise into training
            self._fail(error)
            return None

    def add(self, wait: str, waited_s: float | None) -> None:
        """Add one wait of the code that runs now."""
        try:
            self._found.add(locate_caller(self._thread_id), wait, waited_s)
        except Exception as error:  # nothing may raise into training
            self._fail(error)

    def _hear(self) -> None:
        self.add(CUDA_SYNC, None)

    def _fail(self, error: Exception) -> None:
        if is_handlers(error):  # not ours: it goes on to the program
            raise error
        if not self._failed:
            self._failed = True
            say(f"audit: failed ({error!r}) and may miss waits; training goes on")


class _AuditMode(TorchDispatchMode):
    """Time every operation that waits."""

    supports_higher_order_operators = True

    def __init__(self, audit: Audit) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no types
        self.operations = 0
        self._audit = audit

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Leave compiled functions compiled."""
        return True

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation, and note how long it took if it waits for a watched device."""
        kwargs = kwargs or {}
        self.operations += 1
        wait = self._audit.find_wait(func, args, kwargs)
        if wait is None:
            return func(*args, **kwargs)
        begin_s = perf_counter()
        result = func(*args, **kwargs)
        self._audit.add(wait, perf_counter() - begin_s)
        return result


def find_accelerators(
    current: Callable[[], torch.device | None] = torch.accelerator.current_accelerator,
    get_module: Callable[[torch.device], Any] = torch.get_device_module,
) -> tuple[str, ...]:
    """Return the accelerator that torch could use here, without initialising it.

    Args:
        current: returns the accelerator that torch was built for.
        get_module: returns what tells whether that is there, as `torch.cuda` does.
    """
    accelerator = current()
    if accelerator is None:
        return ()
    before = os.environ.get(_NVML_CHECK)
    os.environ[_NVML_CHECK] = "1"  # CUDA's own check would forbid the program to fork later
    try:
        available = get_module(accelerator).is_available()
    finally:
        if before is None:
            del os.environ[_NVML_CHECK]
        else:
            os.environ[_NVML_CHECK] = before
    return (accelerator.type,) if available else ()


def _time_operations() -> float:
    """Return the seconds that one small operation on the CPU takes now."""
    tensor = torch.zeros(1, device="cpu")
    rounds = []
    for _ in range(_CALIBRATION_ROUNDS):
        begin_s = perf_counter()
        for _ in range(_CALIBRATION_OPERATIONS):
            tensor.neg()
        rounds.append((perf_counter() - begin_s) / _CALIBRATION_OPERATIONS)
    return min(rounds)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
