"""NVIDIA's management library: the one place that starts it, finds GPUs and gives it back."""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import TYPE_CHECKING, Any

from fasttrack.errors import NvmlUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator


def start_nvml() -> Any:
    """Start NVML and return nvidia-ml-py's module; end it with `stop_nvml`.

    The module's functions raise its own `NVMLError`. NVML counts its starts: it may be used from
    several places at a time. Blocks on the driver for some milliseconds; never touches CUDA.

    Raises:
        NvmlUnavailableError: it is not installed, or does not start.
    """
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError as error:
        raise NvmlUnavailableError(f"NVML does not start ({error})") from error
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise NvmlUnavailableError(f"NVML does not start ({error})") from error
    return nvml


def stop_nvml(nvml: Any) -> None:
    """Give back what `start_nvml` returned; handles do not outlive it. Never raises."""
    with contextlib.suppress(nvml.NVMLError):  # the user's code may have shut it down already
        nvml.nvmlShutdown()


@contextlib.contextmanager
def nvml_session() -> Iterator[Any]:
    """Start NVML for a block, which gets nvidia-ml-py's module, and give it back after it.

    Raises:
        NvmlUnavailableError: as `start_nvml`.
    """
    nvml = start_nvml()
    try:
        yield nvml
    finally:
        stop_nvml(nvml)


def visible_name(index: int) -> str:
    """Return how `CUDA_VISIBLE_DEVICES` names a torch index: "2", "GPU-...", "" when hidden."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")  # no option of ours: CUDA's own contract
    if value is None:
        return str(index)
    names = [name.strip() for name in value.split(",")[: index + 1]]
    # CUDA stops at the first entry it cannot use: "0,-1,1" shows one GPU, "" none.
    usable = all(name.isdecimal() or name.startswith(("GPU-", "MIG-")) for name in names)
    return names[index] if usable and index < len(names) else ""


def find_by_name(nvml: Any, name: str) -> tuple[Any, Any]:
    """Return the NVML handles (device, whole board) of what `visible_name` gave; Nones of nothing.

    Raises:
        Exception: NVML's own, where it does not know the device.
    """
    if not name:
        return None, None
    if name.startswith("MIG-"):
        handle = nvml.nvmlDeviceGetHandleByUUID(name)
        return handle, nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
    if name.isdecimal():
        return (nvml.nvmlDeviceGetHandleByIndex(int(name)),) * 2
    # CUDA takes the beginning of a UUID, NVML does not.
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    matches = [h for h in handles if nvml.nvmlDeviceGetUUID(h).startswith(name)]
    return (matches[0],) * 2 if len(matches) == 1 else (None, None)
