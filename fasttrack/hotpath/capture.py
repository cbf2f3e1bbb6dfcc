"""Turn what a caller logs into values that stay true until the worker reads them.

Two ways to keep a tensor's value without waiting for the device:

* snapshot (default): an asynchronous copy on the device. Safe against CUDA-graph outputs that the
  next step overwrites (`torch.compile(mode="reduce-overhead")`), values changed in place after
  they were logged, and live autograd graphs.
* reference: the detached tensor itself and its `_version`; the worker drops the value as stale
  when the version has moved, and the metric is captured by snapshot from then on.

A CPU tensor's number is there already, so its snapshot is the number: reading it costs a fraction
of copying it (bench/README.md) and leaves the worker nothing to do.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Mapping
from operator import countOf
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fasttrack.errors import ValueRefusedError
from fasttrack.handler_errors import is_handlers
from fasttrack.hotpath.advice import describe, why_refused, why_unread
from fasttrack.hotpath.nesting import flatten
from fasttrack.hotpath.norms import is_distributed, is_replicated
from fasttrack.hotpath.records import GRAD_NORM
from fasttrack.hotpath.unreduced import Unreduced

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from fasttrack.hotpath.records import Captured, Gradients

_TENSOR = torch.Tensor
_FLOAT8 = frozenset(
    (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)
)
_FLOATS = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64)) | _FLOAT8
_INTEGERS = frozenset(
    getattr(torch, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)
)
_DTYPES = _FLOATS | _INTEGERS | {torch.bool}
_REFERABLE = _DTYPES - _FLOAT8
_MANY = 16  # values from which sorting the floats out first is quicker


class Capture:
    """Capture scalars for the worker.

    Threads: any; what it holds that changes are names, in a set whose operations are atomic and in
    a tuple that is replaced.
    """

    def __init__(self, mode: str) -> None:
        """Capture by "snapshot" or by "reference"."""
        self._by_reference = mode == "reference"
        self._not_floats: tuple[Any, ...] = ()  # names, of the last many values
        self.read_at_once = None if self._by_reference else _TENSOR
        """The type of tensors whose number is taken at the call where they are on the CPU."""
        self.snapshot_always: set[str] = set()  # metrics whose reference was once found stale

    def scalar(self, name: str, value: Any) -> Captured:
        """Return what keeps `value`: a plain number, or a tensor for the worker to read.

        Raises:
            ValueRefusedError: `value` is not one real number.
        """
        if isinstance(value, torch.Tensor):
            return self._tensor(name, value)
        if isinstance(value, (bool, int, float)):
            return float(value) if isinstance(value, float) else int(value)
        if isinstance(value, (np.number, np.bool_, np.ndarray)) and value.size == 1:
            number = value.item()
            if isinstance(number, (float, np.longdouble)):
                return float(number)
            if isinstance(number, int):
                return int(number)
        raise ValueRefusedError(why_refused(value))

    def _tensor(self, name: str, tensor: torch.Tensor) -> Captured:
        if tensor.numel() != 1:
            raise ValueRefusedError(
                f"a tensor of shape {tuple(tensor.shape)} is not one number; pass a reduction "
                "such as tensor.mean(), or one metric for each element"
            )
        if type(tensor) is not _TENSOR:
            tensor = plain_tensor(tensor)
        dtype = tensor.dtype
        if (
            self._by_reference
            and dtype in _REFERABLE
            and name not in self.snapshot_always
            and not tensor.is_inference()  # it has no version
        ):
            kept = tensor.detach()
            return kept, kept._version
        if dtype not in _DTYPES:
            raise ValueRefusedError(f"a tensor of dtype {dtype} is not one real number")
        if tensor.is_cpu:
            number = tensor.item()
            return int(number) if number is True or number is False else number
        if tensor.is_meta:
            raise ValueRefusedError("a tensor on the meta device has no value")
        if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
            raise ValueRefusedError("nothing can be logged while a CUDA graph is being captured")
        if dtype in _FLOAT8:  # few kernels know these; the copy can be a wider one
            return tensor.detach().float()
        return tensor.detach().clone()

    def not_floats(self, values: dict[Any, Any]) -> Collection[Any]:
        """Return the names of all that are no floats; in little time where they are the same again.

        Counting is twice as quick as looking for them.
        """
        number = len(values) - countOf(map(type, values.values()), float)
        names = self._not_floats
        if number != len(names) or float in [type(values.get(name, 0.0)) for name in names]:
            names = tuple([name for name in values if type(values[name]) is not float])
            self._not_floats = names if number <= _MANY else ()
        return names

    def mapping(
        self, values: dict[Any, Any], refuse: Callable[[str, str], None]
    ) -> dict[str, torch.Tensor] | None:
        """Capture every one of `values`, in place, and drop those that cannot be.

        What stands in a mapping among them is captured under dotted names: `val.loss`.

        Args:
            values: what was logged by name; becomes what keeps it.
            refuse: told (name, why) for each that is dropped.

        Returns:
            The tensors among the captured values; None where there is none.
        """
        pending: dict[str, torch.Tensor] | None = None
        refused: list[str] | None = None
        nested: dict[Any, Any] | None = None
        snapshot = not self._by_reference
        items: Iterable[tuple[Any, Any]] = values.items()
        if len(values) > _MANY:
            items = [(name, values[name]) for name in self.not_floats(values)]
        for name, value in items:
            kind = type(value)
            if kind is float or kind is int:
                continue
            if kind is _TENSOR and snapshot and value.is_cpu:  # the common case, in short
                try:
                    number = value.item()
                except RuntimeError as error:
                    if is_handlers(error):
                        raise
                    number = None  # several elements: refused below, in better words
                if type(number) is float:
                    values[name] = number
                    continue
            try:
                kept = self._tensor(name, value) if kind is _TENSOR else self.scalar(name, value)
            except Exception as error:  # the value's own code may run
                if not isinstance(error, ValueRefusedError) and is_handlers(error):
                    raise
                if issubclass(kind, Mapping):
                    nested = {} if nested is None else nested
                    nested[name] = value
                else:
                    refuse(name, why_unread(value, error))
                refused = [name] if refused is None else [*refused, name]
                continue
            values[name] = kept
            if not isinstance(kept, (float, int)):
                pending = {} if pending is None else pending
                pending[name] = kept[0] if isinstance(kept, tuple) else kept
        for name in refused or ():
            del values[name]
        if nested is not None:
            inner = flatten(nested, values, refuse)
            inner_pending = self.mapping(inner, refuse)
            values.update(inner)
            if inner_pending is not None:
                pending = {**(pending or {}), **inner_pending}
        return pending


def plain_tensor(tensor: Any) -> torch.Tensor:
    """Return what a tensor of torch.distributed holds on this rank, where that is the value."""
    if isinstance(tensor, Unreduced):
        raise ValueRefusedError("it could not be reduced over the ranks; a warning says why")
    if is_distributed(tensor):
        if not is_replicated(tensor):
            raise ValueRefusedError(
                "a DTensor of which this rank holds a part has its value only after a collective; "
                "on every rank call tracker.reduce(tensor) or full_tensor(), and pass the result"
            )
        with torch.no_grad():
            tensor = tensor.to_local()
    if hasattr(type(tensor), "trigger_wait") and tensor.device.type == "cpu":
        # An accelerator's stream would wait, here the caller would.
        if not tensor.completed:
            raise ValueRefusedError("a collective still computes it; use its result, then log it")
        tensor = tensor.elem
    plain: torch.Tensor = tensor
    return plain


def step_number(step: Any) -> int:
    """Return `step` as an int.

    Raises:
        ValueRefusedError: it is not an integer, or reading it would wait for a device.
    """
    is_tensor = isinstance(step, torch.Tensor)
    if is_tensor and not step.is_cpu:
        raise ValueRefusedError("step is a tensor on a device; pass an int")
    if not isinstance(step, bool) and not (is_tensor and step.dtype is torch.bool):
        with contextlib.suppress(TypeError):
            return operator.index(step)
        if isinstance(step, float) and step.is_integer():
            return int(step)
    raise ValueRefusedError(f"step must be an integer, not {describe(step)}")


def mark_streams(devices: Iterable[torch.device]) -> tuple[torch.Event, ...]:
    """Record one event per accelerator on the caller's current stream.

    The worker's stream waits for these before it reads anything. The CPU needs none, and a backend
    that has none is read by waiting for the whole device.

    Raises:
        RuntimeError: the device could not record one. What lives on it cannot be read in order.
    """
    return mark_each(current_streams(devices))


def current_streams(devices: Iterable[torch.device]) -> list[torch.Stream]:
    """Return the caller's current stream on each accelerator; none where there are no events.

    Raises:
        RuntimeError: the device failed.
    """
    streams = []
    for device in devices:
        if device.type not in EVENTLESS:
            try:
                streams.append(torch.accelerator.current_stream(device))
            except RuntimeError as error:
                _note_eventless(device, error)
    return streams


def mark_each(streams: Iterable[torch.Stream]) -> tuple[torch.Event, ...]:
    """Record one event on each of `streams`, whatever the caller's current ones are.

    For what is marked later than it was captured: another stream may be current by then, which has
    waited for none of these.

    Raises:
        RuntimeError: as for `mark_streams`.
    """
    events = []
    for stream in streams:
        device = stream.device
        try:
            event = torch.Event(device)
            event.record(stream)
        except RuntimeError as error:
            _note_eventless(device, error)
        else:
            events.append(event)
    return tuple(events)


def _note_eventless(device: torch.device, error: RuntimeError) -> None:
    """Note that a backend has no events, which is what `error` says; else raise it."""
    if not is_unsupported(error) or is_handlers(error):
        raise error
    EVENTLESS.add(device.type)


def is_unsupported(error: RuntimeError) -> bool:
    """Return whether a backend says that it cannot do something at all, rather than this time."""
    # The second is what c10::impl::DeviceGuardImplInterface says for what a backend leaves out.
    return isinstance(error, NotImplementedError) or "ackend doesn't support" in str(error)


def order(
    values: dict[str, Any],
    pending: dict[str, torch.Tensor] | None,
    gradients: Gradients | None,
    refuse: Callable[[str, str], None],
) -> tuple[bool, tuple[torch.Event, ...]]:
    """Mark how far the caller's streams must have come before what was captured is read.

    Where a device fails to, what lives there is dropped from `values` and `pending`: read too
    early, it would be another number.

    Returns:
        Whether `gradients` can be read, and the events.
    """
    on: dict[torch.device, list[str]] = {}
    for name, tensor in (pending or {}).items():
        if not tensor.is_cpu:
            on.setdefault(tensor.device, []).append(name)
    readable = True
    if gradients is not None:
        for device in gradients.devices:
            on.setdefault(device, [])
    events: tuple[torch.Event, ...] = ()
    for device, names in on.items():
        try:
            events += mark_streams((device,))
        except RuntimeError as error:
            if is_handlers(error):
                raise
            why = f"the device could not mark when it is computed: {str(error).strip()[:200]}"
            for name in names:
                refuse(name, why)
                del values[name]
                del pending[name]  # type: ignore[union-attr]  # it has names
            if gradients is not None and device in gradients.devices:
                refuse(GRAD_NORM, why)
                readable = False
    return readable, events


EVENTLESS: set[str] = {"cpu", "meta"}
"""Types of devices without events, for this process."""
