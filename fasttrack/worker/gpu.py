"""GPU statistics of the training process: NVML and torch's own memory counters.

NVML numbers every GPU of the machine and ignores `CUDA_VISIBLE_DEVICES`; torch numbers the visible
ones. `context/nvml.py` knows the names in that variable. Sizes named `_gb` count 2**30 bytes.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fasttrack.context.nvml import find_by_name, start_nvml, stop_nvml, visible_name
from fasttrack.errors import NvmlUnavailableError

_GB: Final = 2**30
_MAX_FAILURES: Final = 3


@dataclass(slots=True)
class Gpu:
    """One GPU, as its statistics need it. Threads: one at a time."""

    index: int
    handle: Any = None  # the GPU or the MIG instance: memory, utilization
    board: Any = None  # always the whole GPU: temperature, power
    certain: bool | None = None  # None: not looked for yet; False: the environment's word only
    largest_used: int = 0  # bytes
    failures: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))  # in a row


def _is_nvidia() -> bool:
    """Return False when torch was built for another maker's accelerator."""
    torch: Any = importlib.import_module("torch")  # Any: torch.cuda is annotated in part only
    accelerator = torch.accelerator.current_accelerator()
    return torch.version.hip is None and (accelerator is None or accelerator.type == "cuda")


def find_initialised_cuda() -> Any:
    """Return `torch.cuda` when this process has initialised CUDA, else None. Never does so."""
    torch: Any = sys.modules.get("torch")  # not imported: nobody has; and asked in most rounds
    if torch is None or not torch.cuda.is_initialized() or not _is_nvidia():
        return None
    return torch.cuda


def _utilization(nvml: Any, gpu: Gpu, cuda: Any) -> float:
    return float(nvml.nvmlDeviceGetUtilizationRates(gpu.handle).gpu)


def _memory_used(nvml: Any, gpu: Gpu, cuda: Any) -> float:
    try:  # v2 leaves out what the driver reserves for itself, as nvidia-smi does
        used = nvml.nvmlDeviceGetMemoryInfo(gpu.handle, nvml.nvmlMemory_v2).used
    except (nvml.NVMLError, AttributeError):  # older driver, older nvidia-ml-py
        used = nvml.nvmlDeviceGetMemoryInfo(gpu.handle).used
    gpu.largest_used = max(gpu.largest_used, used)
    return float(used / _GB)


def _memory_peak(nvml: Any, gpu: Gpu, cuda: Any) -> float | None:
    peak = gpu.largest_used if cuda is None else cuda.max_memory_allocated(gpu.index)
    return None if cuda is None and not peak else peak / _GB


def _temperature(nvml: Any, gpu: Gpu, cuda: Any) -> float:
    try:
        return float(nvml.nvmlDeviceGetTemperatureV(gpu.board, nvml.NVML_TEMPERATURE_GPU))
    except (nvml.NVMLError, AttributeError):  # older driver, older nvidia-ml-py
        return float(nvml.nvmlDeviceGetTemperature(gpu.board, nvml.NVML_TEMPERATURE_GPU))


def _power(nvml: Any, gpu: Gpu, cuda: Any) -> float:
    return float(nvml.nvmlDeviceGetPowerUsage(gpu.board) / 1000)


FIELDS: Final[Mapping[str, Callable[[Any, Gpu, Any], float | None]]] = {
    # In this order: before CUDA is in use, the peak comes from what memory_used has just seen.
    "gpu/utilization": _utilization,
    "gpu/memory_used_gb": _memory_used,
    "gpu/memory_peak_gb": _memory_peak,
    "gpu/temperature": _temperature,
    "gpu/power_w": _power,
}


class GpuSampler:
    """Read the statistics of the GPU this process computes on; never raise into the caller.

    CUDA is never initialised here: that would take device memory and break later forks. A field
    that fails three times in a row is no longer asked on that device, which is said once.

    Threads: worker thread only. NVML calls give up the GIL (ctypes).
    """

    def __init__(
        self, say: Callable[[str], None], find_cuda: Callable[[], Any] = find_initialised_cuda
    ) -> None:
        """Do not start NVML yet: it waits for a sample.

        Args:
            say: gets each message for the user once.
            find_cuda: returns `torch.cuda`, or None where it must not be asked.
        """
        self._say = say
        self._find_cuda = find_cuda
        self._nvml: Any = None
        self._refusal: str | None = None  # why NVML did not start; "" once said
        self._errors: tuple[type[Exception], ...] = (RuntimeError, AttributeError)
        self._gpus: dict[int, Gpu] = {}
        self._guess: int | None = None

    def sample(self, device_index: int | None) -> dict[str, float]:
        """Return what can be had of `FIELDS`, nothing without an NVIDIA GPU. Blocks for the driver.

        Args:
            device_index: torch's CUDA index, as in `loss.device.index`; None when unknown: the GPU
                this process holds most memory on, or 0 before CUDA is in use.

        Returns:
            `gpu/utilization` (percent), `gpu/memory_used_gb` (by all processes; of the MIG instance
            if on one), `gpu/memory_peak_gb` (of torch's allocator; before CUDA is in use, the
            largest memory_used seen), `gpu/temperature` (Celsius), `gpu/power_w`.
        """
        cuda = self._find_cuda()
        self._open(cuda)
        if cuda is None and self._nvml is None:  # nothing to ask
            return {}
        index = self._busiest(cuda) if device_index is None else device_index
        gpu = self._gpus.setdefault(index, Gpu(index))
        row: dict[str, float] = {}
        given_up: dict[str, list[str]] = {}
        for name, read in FIELDS.items():
            if gpu.failures[name] >= _MAX_FAILURES:
                continue
            try:
                readable = read is _memory_peak or self._locate(gpu, cuda)
                value = read(self._nvml, gpu, cuda) if readable else None
            except self._errors as error:
                gpu.failures[name] += 1
                if gpu.failures[name] == _MAX_FAILURES:
                    given_up.setdefault(str(error), []).append(name.removeprefix("gpu/"))
                continue
            gpu.failures[name] = 0
            if value is not None:
                row[name] = value
        for reason, names in given_up.items():  # one message, not five, when a GPU is lost
            self._say(
                f"GPU statistics: {', '.join(names)} {'is' if len(names) == 1 else 'are'} not "
                f"available on this device ({reason}); no longer asked"
            )
        return row

    def close(self) -> None:
        """Give NVML back. A later sample starts it anew and still knows what was given up."""
        if self._nvml is None:
            return
        nvml, self._nvml = self._nvml, None
        for gpu in self._gpus.values():  # handles do not outlive the NVML session
            gpu.handle = gpu.board = gpu.certain = None
        stop_nvml(nvml)

    def _open(self, cuda: Any) -> None:
        """Start NVML once; after a refusal say so, but only in a process that does use CUDA."""
        if self._nvml is None and self._refusal is None and _is_nvidia():
            try:
                self._nvml = start_nvml()
                self._errors += (self._nvml.NVMLError,)
            except NvmlUnavailableError as error:
                self._refusal = str(error)
        # torch.cuda.is_available() poisons later forks where CUDA is there but not in use yet, so
        # the message waits until the training code has initialised CUDA.
        if self._refusal and cuda is not None:
            self._say(f"GPU statistics: {self._refusal}; peak memory only")
            self._refusal = ""

    def _busiest(self, cuda: Any) -> int:
        """Return the index of the GPU that this process computes on, as far as can be told."""
        if self._guess is None and cuda is not None:
            # CUDA's current device belongs to the thread: on the worker it is 0 whatever the
            # trainer has set. So the GPU that torch's allocator holds most memory on.
            with contextlib.suppress(RuntimeError):  # an allocator that keeps no statistics
                held = [cuda.memory_reserved(i) for i in range(cuda.device_count())]
                self._guess = held.index(max(held)) if any(held) else None
        return self._guess or 0

    def _locate(self, gpu: Gpu, cuda: Any) -> bool:
        """Return whether NVML has the GPU; looks again, for certain, once CUDA is initialised."""
        certain = cuda is not None
        if self._nvml is not None and (gpu.certain is None or gpu.certain < certain):
            gpu.handle, gpu.board = _find_handles(self._nvml, gpu.index, cuda)
            gpu.certain = certain
        return gpu.handle is not None


def _find_handles(nvml: Any, index: int, cuda: Any) -> tuple[Any, Any]:
    """Return the NVML handles (device, whole board) of a torch index; Nones when hidden."""
    name = visible_name(index)
    if cuda is not None and not name.startswith("MIG-"):
        # Only CUDA knows its order for certain; on MIG, torch's UUID may be the whole GPU's.
        if index >= cuda.device_count():
            return None, None
        uuid = cuda.get_device_properties(index).uuid
        with contextlib.suppress(nvml.NVMLError):
            return (nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"),) * 2
        name = f"MIG-{uuid}"
    return find_by_name(nvml, name)
