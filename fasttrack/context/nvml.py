"""NVIDIA's management library: the one place that starts it and gives it back."""

from __future__ import annotations

import contextlib
import importlib
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
