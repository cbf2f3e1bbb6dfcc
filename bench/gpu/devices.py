"""Work for a device, its clock, its synchronisations and its memory."""

from __future__ import annotations

import threading
import time
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch.nn.functional import mse_loss

from bench.workload import five_scalars

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.workload import Scalars

_SYNC_WARNING = "synchronizing CUDA operation"
_LAYERS = 6
_MIB = 2**20


class Length(NamedTuple):
    """A length of step: the model's width, the least batch, and how long a step must take."""

    width: int
    batch_size: int
    at_least_ms: float


LENGTHS = {"short": Length(256, 64, 0.0), "long": Length(4096, 64, 20.0)}
TINY_LENGTHS = {"short": Length(16, 4, 0.0), "long": Length(64, 4, 0.5)}  # for a CPU


class Cuda:
    """The device's clock, its synchronisations and its memory."""

    def mark(self) -> Any:
        """Return this point in the device's time."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
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


class DeviceWork:
    """A model, its optimizer and one batch on a device; `step` trains once, without waiting."""

    def __init__(self, device: str, length: Length, batch_size: int) -> None:
        """Build everything from a fixed seed."""
        torch.manual_seed(0)
        self.batch_size = batch_size
        width = length.width
        layers: list[torch.nn.Module] = []
        for _ in range(_LAYERS):
            layers += [torch.nn.Linear(width, width), torch.nn.ReLU()]
        self.model = torch.nn.Sequential(*layers[:-1]).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self._inputs = torch.randn(batch_size, width, device=device)
        self._targets = torch.randn(batch_size, width, device=device)

    def step(self, step: int) -> Scalars:
        """Train once; return what to log, the loss as a tensor with its graph."""
        self.optimizer.zero_grad()
        loss = mse_loss(self.model(self._inputs), self._targets)
        loss.backward()  # type: ignore[no-untyped-call]  # torch annotates it in part only
        self.optimizer.step()
        return five_scalars(loss, step)


Device: TypeAlias = Cuda | Host
