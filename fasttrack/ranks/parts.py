"""What every rank needs to take part, whether it records or not."""

from __future__ import annotations

import itertools
import os
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from fasttrack.context.distributed import get_rank, get_world_size
from fasttrack.ranks.member import Member
from fasttrack.ranks.own_time import OwnTime
from fasttrack.ranks.statistics import RankMeter, WindowStatistics, window_width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fasttrack.notices import Notices
    from fasttrack.ranks.member import Sink
    from fasttrack.settings import RunSettings
    from fasttrack.worker.resolve import Resolver

_GIB = 2**30
_trackers = itertools.count()  # of this process, in the order of construction: alike on all ranks


class RankListener:
    """What the worker tells of the training steps: a meter, and what becomes of its records.

    Threads: worker only.
    """

    def __init__(self, settings: RunSettings, notices: Notices, resolver: Resolver) -> None:
        """Sum up what the worker of `resolver` sees."""
        self.meter = RankMeter(
            get_world_size, notices.refuse, find_pauses=settings.options.find_pauses
        )
        self.device = _Device(resolver)
        self.statistics = WindowStatistics(
            window_width(settings.log_interval, settings.gpu_stats_interval),
            self.meter,
            self.device.memory_peak_gb,
        )
        self.take = self.statistics.take

    def member(
        self, notices: Notices, open_pauses: Sequence[float], sink: Sink | None = None
    ) -> Member:
        """Return this rank among the others, not started yet; the caller's thread is who trains."""
        return Member(
            get_rank(),
            get_world_size(),
            self.statistics,
            OwnTime(threading.get_ident(), open_pauses, _waits_for_devices),
            key=f"ranks/{next(_trackers)}",
            describe_gpu=self.device.describe,
            warn=notices.warn,
            sink=sink,
        )


class _Device:
    """The GPU that this rank trains on, as torch knows it. Threads: any."""

    def __init__(self, resolver: Resolver) -> None:
        """Be the one whose tensors `resolver` reads."""
        self._resolver = resolver
        self._described = ""

    def _index(self, cuda: Any) -> int:
        """Return its number among those that torch sees."""
        if self._resolver.cuda_index is not None:
            return self._resolver.cuda_index
        local = os.environ.get("LOCAL_RANK", "")
        devices: int = cuda.device_count()
        return min(int(local) if local.isdigit() else 0, devices - 1)

    def memory_peak_gb(self) -> float | None:
        """Return the most memory that was ever allocated on it; None where there is none."""
        cuda = _initialised_cuda()
        return None if cuda is None else cuda.max_memory_allocated(self._index(cuda)) / _GIB

    def describe(self) -> str:
        """Return its number, name and UUID; "" where there is none."""
        if not self._described and (cuda := _initialised_cuda()) is not None:
            index = self._index(cuda)
            found = cuda.get_device_properties(index)
            uuid = f", GPU-{found.uuid}" if hasattr(found, "uuid") else ""
            self._described = f"GPU {index}: {found.name}{uuid}"
        return self._described


def _initialised_cuda() -> Any:
    """Return `torch.cuda`, which ROCm has too, where this process uses it; never initialise it."""
    return torch.cuda if torch.cuda.is_initialized() else None


def _waits_for_devices() -> bool:
    """Return whether this process trains on an accelerator, where any line may wait for others."""
    return torch.cuda.is_initialized() or _has_another_accelerator()


@cache
def _has_another_accelerator() -> bool:
    """Return whether there is one of which torch does not tell whether this process uses it."""
    accelerator = torch.accelerator.current_accelerator()
    return (
        accelerator is not None and accelerator.type != "cuda" and torch.accelerator.is_available()
    )
