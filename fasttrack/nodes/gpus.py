"""All GPUs of a node that the job may see, by NVML; torch is not asked.

On machines without NVIDIA's library there are none: other makers' tell nothing here.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fasttrack.context.nvml import find_by_name, start_nvml, stop_nvml, visible_name
from fasttrack.errors import NvmlUnavailableError
from fasttrack.worker.gpu import FIELDS, Gpu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_GB: Final = 2**30
_MB: Final = 2**20
_KB: Final = 2**10
_MAX_FAILURES: Final = 3  # in a row, after which a field is no longer asked for
_ALL_LINKS: Final = 2**32 - 1  # NVML: the sum over a GPU's NVLinks


@dataclass(slots=True)
class _Device:
    """A GPU or MIG instance. Threads: one at a time."""

    gpu: Gpu
    uuid: str
    clock: Callable[[], float]
    before: dict[str, tuple[float, float]] = field(default_factory=dict)  # name -> (clock, total)
    failures: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def rate(self, name: str, total: float) -> float | None:
        """Return by how much a total grew in a second; None at the first call."""
        now_s = self.clock()
        before = self.before.get(name)
        self.before[name] = (now_s, total)
        if before is None or now_s <= before[0] or total < before[1]:
            return None
        return (total - before[1]) / (now_s - before[0])


_Read: TypeAlias = "Callable[[Any, _Device], float | None]"


def _as_rank_0_has_it(name: str) -> _Read:
    read = FIELDS[f"gpu/{name}"]
    return lambda nvml, device: read(nvml, device.gpu, None)


def _clock(kind: str) -> _Read:
    return lambda nvml, device: nvml.nvmlDeviceGetClockInfo(device.gpu.board, getattr(nvml, kind))


def _throttled(*reasons: str) -> _Read:
    def read(nvml: Any, device: _Device) -> float:
        try:
            held = nvml.nvmlDeviceGetCurrentClocksEventReasons(device.gpu.board)
        except (nvml.NVMLError, AttributeError):  # older driver, older nvidia-ml-py
            held = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(device.gpu.board)
        return int(any(held & getattr(nvml, f"nvmlClocksThrottleReason{name}") for name in reasons))

    return read


def _ecc(kind: str) -> _Read:
    return lambda nvml, device: nvml.nvmlDeviceGetTotalEccErrors(
        device.gpu.board, getattr(nvml, kind), nvml.NVML_VOLATILE_ECC
    )


def _pcie(counter: str) -> _Read:
    return lambda nvml, device: (
        nvml.nvmlDeviceGetPcieThroughput(device.gpu.board, getattr(nvml, counter)) * _KB / _MB
    )


def _nvlink(name: str) -> _Read:
    def read(nvml: Any, device: _Device) -> float | None:
        number = getattr(nvml, f"NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_{name}")
        (found,) = nvml.nvmlDeviceGetFieldValues(device.gpu.board, [(number, _ALL_LINKS)])
        if found.nvmlReturn != nvml.NVML_SUCCESS:
            raise nvml.NVMLError(found.nvmlReturn)
        rate = device.rate(name, int(found.value.ullVal) * _KB)
        return None if rate is None else rate / _MB

    return read


# Of a MIG instance where it has its own, else of the board. Torch's peak is not to be had here.
_FIELDS: Final[Mapping[str, _Read]] = {
    "utilization": _as_rank_0_has_it("utilization"),
    "memory_used_gb": _as_rank_0_has_it("memory_used_gb"),
    "temperature": _as_rank_0_has_it("temperature"),
    "power_w": _as_rank_0_has_it("power_w"),
    "clock_sm_mhz": _clock("NVML_CLOCK_SM"),
    "clock_memory_mhz": _clock("NVML_CLOCK_MEM"),
    "throttled_power": _throttled("SwPowerCap", "HwPowerBrakeSlowdown"),
    "throttled_thermal": _throttled("SwThermalSlowdown", "HwThermalSlowdown"),
    "ecc_corrected": _ecc("NVML_MEMORY_ERROR_TYPE_CORRECTED"),
    "ecc_uncorrected": _ecc("NVML_MEMORY_ERROR_TYPE_UNCORRECTED"),
    "pcie_recv_mb_s": _pcie("NVML_PCIE_UTIL_RX_BYTES"),
    "pcie_sent_mb_s": _pcie("NVML_PCIE_UTIL_TX_BYTES"),
    "nvlink_recv_mb_s": _nvlink("RX"),
    "nvlink_sent_mb_s": _nvlink("TX"),
}


class NodeGpus:
    """Read all GPUs of this node that `CUDA_VISIBLE_DEVICES` shows to the process.

    They are numbered as there, from 0; without the variable as NVML has them, where a GPU that is
    partitioned counts as its MIG instances. A field that fails three times in a row on a GPU is no
    longer asked there.

    Threads: one at a time. NVML's calls give up the GIL (ctypes); those for PCIe take 20 ms each.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start NVML; there may be none. Blocks for the driver.

        Args:
            clock: in seconds; rates are taken by it.
        """
        self._clock = clock
        self._nvml: Any = None
        self._errors: tuple[type[Exception], ...] = (AttributeError, ValueError)
        self.reason: str | None = None
        """Why there are no GPUs; None where there are."""
        self._devices: list[_Device] = []
        try:
            self._nvml = start_nvml()
        except NvmlUnavailableError as error:
            self.reason = str(error)
            return
        self._errors += (self._nvml.NVMLError,)
        try:
            self._devices = list(self._find())
        except self._errors as error:
            self.reason = str(error)
        if not self._devices and self.reason is None:
            self.reason = "none is visible"

    def facts(self) -> list[dict[str, Any]]:
        """Return of each GPU what does not change: `uuid`, `name`, `memory_gb`."""
        return [self._facts(device) for device in self._devices]

    def _facts(self, device: _Device) -> dict[str, Any]:
        nvml, gpu = self._nvml, device.gpu
        facts: dict[str, Any] = {"uuid": device.uuid, "name": None, "memory_gb": None}
        with contextlib.suppress(*self._errors):
            facts["name"] = str(nvml.nvmlDeviceGetName(gpu.board))
        with contextlib.suppress(*self._errors):
            total = nvml.nvmlDeviceGetMemoryInfo(gpu.handle).total
            facts["memory_gb"] = round(total / _GB, 3)
        return facts

    def sample(self) -> list[dict[str, float]]:
        """Return of each GPU what can be had; rates of NVLink are since the last call.

        Returns:
            `utilization` (percent), `memory_used_gb`, `temperature` (Celsius), `power_w`,
            `clock_sm_mhz`, `clock_memory_mhz`; `throttled_power` and `throttled_thermal`, 1 where
            clocks are held down for it; `ecc_corrected`, `ecc_uncorrected`: errors since the driver
            was loaded; `pcie_recv_mb_s`, `pcie_sent_mb_s`: over the last 20 ms;
            `nvlink_recv_mb_s`, `nvlink_sent_mb_s`: of all links together.
        """
        return [self._sample(device) for device in self._devices]

    def close(self) -> None:
        """Give NVML back."""
        if self._nvml is not None:
            nvml, self._nvml = self._nvml, None
            self._devices.clear()
            stop_nvml(nvml)

    def _sample(self, device: _Device) -> dict[str, float]:
        values: dict[str, float] = {}
        for name, read in _FIELDS.items():
            if device.failures[name] >= _MAX_FAILURES:
                continue
            try:
                value = read(self._nvml, device)
            except self._errors:
                device.failures[name] += 1
                continue
            device.failures[name] = 0
            if value is not None:
                values[name] = round(value, 3)
        return values

    # --- finding them -------------------------------------------------------------------------

    def _find(self) -> Iterator[_Device]:
        nvml = self._nvml
        for handle, board in self._handles():
            try:
                uuid = str(nvml.nvmlDeviceGetUUID(handle))
            except self._errors:
                uuid = ""
            yield _Device(Gpu(0, handle, board), uuid, self._clock)

    def _handles(self) -> Iterator[tuple[Any, Any]]:
        nvml = self._nvml
        if "CUDA_VISIBLE_DEVICES" in os.environ:  # no option of ours: CUDA's own contract
            index = 0
            while name := visible_name(index):
                index += 1
                try:
                    handle, board = find_by_name(nvml, name)
                except self._errors:
                    return  # CUDA shows none from one on that is not there
                if handle is None:
                    return
                yield handle, board
            return
        for index in range(nvml.nvmlDeviceGetCount()):
            board = nvml.nvmlDeviceGetHandleByIndex(index)
            yield from [(handle, board) for handle in self._instances(board)] or [(board, board)]

    def _instances(self, board: Any) -> list[Any]:
        """Return a board's MIG instances."""
        nvml, found = self._nvml, []
        try:
            if nvml.nvmlDeviceGetMigMode(board)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
                return []
            count = nvml.nvmlDeviceGetMaxMigDeviceCount(board)
        except self._errors:
            return []
        for place in range(count):
            try:
                found.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(board, place))
            except self._errors:  # places may be free
                continue
        return found
