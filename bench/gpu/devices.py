"""A device's clock, its synchronisations and its memory; and how long steps on it shall take."""

from __future__ import annotations

import threading
import time
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch

from bench.lib.workload import Size

if TYPE_CHECKING:
    from collections.abc import Callable

_SYNC_WARNING = "synchronizing CUDA operation"
_MIB = 2**20


class Length(NamedTuple):
    """A length of step: the model with the least batch, and how long a step must take."""

    size: Size
    at_least_ms: float


LENGTHS = {"short": Length(Size(6, 256, 64), 0.0), "long": Length(Size(6, 4096, 64), 20.0)}
TINY_LENGTHS = {"short": Length(Size(6, 16, 4), 0.0), "long": Length(Size(6, 64, 4), 0.5)}
"""For a CPU."""


class Cuda:
    """The device's clock, its synchronisations and its memory."""

    def mark(self) -> Any:
        """Return this point in the device's time."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def wait(self) -> None:
        """Wait for all that the device was given."""
        torch.cuda.synchronize()

    def seconds(self, start: Any, end: Any) -> float:
        """Return the time between two marks that the device has passed."""
        return float(start.elapsed_time(end)) / 1e3

    def syncs(self, run: Callable[[], object]) -> Counter[str] | None:
        """Return how often each thread has waited for the device during `run`."""
        found: Counter[str] = Counter()

        def note(message: Warning | str, *details: object) -> None:
            if _SYNC_WARNING in str(message):
                found[threading.current_thread().name] += 1

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = note  # type: ignore[assignment]
            torch.cuda.set_sync_debug_mode("warn")
            try:
                run()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return found

    def peak_mb(self, run: Callable[[], object]) -> float | None:
        """Return the most memory that was allocated at a time during `run`, in MiB."""
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        run()
        self.wait()
        return torch.cuda.max_memory_allocated() / _MIB

    def describe(self) -> dict[str, Any]:
        """Return what the figures depend on."""
        return {
            "gpu": torch.cuda.get_device_name(),
            "gpu memory, GiB": round(torch.cuda.get_device_properties(0).total_memory / 2**30),
            "cuda": torch.version.cuda,
        }


class Host:
    """The same of a CPU, which has none of it but a clock: it shows that the rest runs."""

    def mark(self) -> Any:
        """Return the time."""
        return time.perf_counter()

    def wait(self) -> None:
        """Nothing is under way."""

    def seconds(self, start: Any, end: Any) -> float:
        """Return the time between two marks."""
        return float(end - start)

    def syncs(self, run: Callable[[], object]) -> Counter[str] | None:
        """Return None: nothing to count."""
        run()
        return None

    def peak_mb(self, run: Callable[[], object]) -> float | None:
        """Return None: nothing is known."""
        run()
        return None

    def describe(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


Device: TypeAlias = Cuda | Host
