"""Copy scalars from devices to the host without making anybody else's work wait.

Each accelerator gets a side stream of the worker's own. It waits for the events that the callers
recorded, gathers all scalars of one device and dtype with one `stack` and one copy, and the
worker waits for that stream only; `.item()` would wait for all that the trainer has queued.
"""

from __future__ import annotations

import contextlib
import ctypes
from typing import TYPE_CHECKING

import torch

from fasttrack.hotpath.capture import EVENTLESS, is_unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fasttrack.hotpath.records import Scalar

_CAPTURE_MODE_RELAXED = 2  # cudaStreamCaptureModeRelaxed


class SideStreams:
    """The worker's own stream on each accelerator.

    Threads: worker only (the current stream is a per-thread setting of PyTorch).
    """

    def __init__(self) -> None:
        """Make no stream yet; each device gets one when its first tensor comes by."""
        self._streams: dict[torch.device, torch.Stream | None] = {}

    def enter(self, device: torch.device, events: Iterable[torch.Event]) -> None:
        """Make this thread's work on `device` go to the side stream, behind `events`.

        Where the backend has no streams or no events, it waits: for the events, or for all that
        the device was given.

        Raises:
            RuntimeError: the device failed. Nothing may be read from it now.
        """
        if device.type == "cpu":
            return
        if device not in self._streams:
            self._streams[device] = _open_stream(device)
        stream = self._streams[device]
        if stream is not None:
            torch.accelerator.set_stream(stream)
        if device.type in EVENTLESS:
            torch.accelerator.synchronize(device)
            return
        for event in events:
            if event.device != device:
                continue
            if stream is None:
                event.synchronize()
            else:
                stream.wait_event(event)

    def wait(self, device: torch.device) -> None:
        """Wait until the side stream of `device` has done all it was given; frees the GIL."""
        stream = self._streams.get(device)
        if stream is not None:
            stream.synchronize()

    def read(self, tensors: Sequence[torch.Tensor], events: Iterable[torch.Event]) -> list[Scalar]:
        """Return the numbers of one-element `tensors` that share one device and dtype.

        Raises:
            RuntimeError: the device failed.
        """
        device = tensors[0].device
        if device.type == "cpu":
            return [tensor.item() for tensor in tensors]
        self.enter(device, events)
        stacked = torch.stack([tensor.reshape(()) for tensor in tensors])
        if self._streams[device] is None:
            return stacked.tolist()
        try:  # of the host, whatever the user's default device or tensor type is
            host = torch.empty(stacked.shape, dtype=stacked.dtype, device="cpu", pin_memory=True)
        except RuntimeError:  # none is left, or the backend knows none
            return stacked.tolist()
        host.copy_(stacked, non_blocking=True)
        self.wait(device)
        return host.tolist()

    def fetch(self, tensor: torch.Tensor, events: Iterable[torch.Event]) -> torch.Tensor:
        """Return a tensor, whatever its size, in the host's memory.

        Raises:
            RuntimeError: the device failed.
        """
        device = tensor.device
        if device.type == "cpu":
            return tensor
        self.enter(device, events)
        if self._streams[device] is None:
            return tensor.cpu()
        try:
            host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
        except RuntimeError:  # as in `read`
            return tensor.cpu()
        host.copy_(tensor, non_blocking=True)
        self.wait(device)
        return host


def _open_stream(device: torch.device) -> torch.Stream | None:
    if device.type == "cuda":
        _relax_stream_capture()
    torch.accelerator.set_device_index(device.index or 0)
    try:
        return torch.Stream(device)
    except RuntimeError as error:
        if not is_unsupported(error):
            raise
        return None  # MPS


def _relax_stream_capture() -> None:
    # A trainer that captures a CUDA graph would have its capture broken by our event queries;
    # PyTorch's NCCL watchdog sets its thread to the same mode for the same reason.
    major = (torch.version.cuda or "").split(".")[0]
    with contextlib.suppress(OSError, AttributeError):
        runtime = ctypes.CDLL("libamdhip64.so" if torch.version.hip else f"libcudart.so.{major}")
        prefix = "hip" if torch.version.hip else "cuda"
        exchange = getattr(runtime, f"{prefix}ThreadExchangeStreamCaptureMode")
        exchange(ctypes.byref(ctypes.c_int(_CAPTURE_MODE_RELAXED)))
