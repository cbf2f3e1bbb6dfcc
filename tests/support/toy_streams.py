"""Streams and events for the toy accelerator, whose work is done only when it is let.

What the trainer's thread launches is queued, on the stream that is its current one: until
`Queue.run` its results are NaN, as memory that no kernel has written yet. Another thread reads what
is there, at once; it waits for an event, or for the whole device, until the queue has come so far.
Whoever waits on the trainer's thread while the queue stands would wait for ever: `Waited` is raised
there.
"""

from __future__ import annotations

import functools
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.utils._pytree as pytree
from support import toy_accelerator
from support.toy_accelerator import Toy, unwrap, wrap
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

if TYPE_CHECKING:
    from collections.abc import Iterator

DEVICE = "toy"
HANG_GUARD_S = 60.0


class Waited(AssertionError):
    """The trainer's thread waited for the device."""


class Stream:
    """`torch.Stream`, of the toy: its own kernels in order, none after those of another."""

    failures: list[Exception] = []  # noqa: RUF012  # for all of them

    def __init__(self, device: Any) -> None:
        if Stream.failures:
            raise Stream.failures.pop(0)
        self.device = torch.device("privateuseone", 0)  # so it is called until `install`
        self.waiting: list[Any] = []
        self.launched = self.done = 0

    def wait_event(self, event: Event) -> None:
        """Wait for the event, in the place of the device: what a worker launches runs at once."""
        event.synchronize()

    def synchronize(self) -> None:
        """Wait until it has done all that it was given."""
        Queue.wait_for(self, self.launched)


class Queue:
    """What the trainer launched and the device has yet to do, stream by stream."""

    trainer = threading.get_ident()
    standing = False
    done = 0
    default = current = Stream(None)
    streams = [default]  # noqa: RUF012  # there is one device
    moved = threading.Condition()

    @classmethod
    def launch(cls, kernel: Any) -> None:
        """Queue a kernel; run it now where the queue does not stand."""
        if threading.get_ident() != cls.trainer or not cls.standing:
            kernel()
            return
        cls.current.launched += 1
        cls.current.waiting.append(kernel)

    @classmethod
    @contextmanager
    def on(cls, stream: Stream) -> Iterator[None]:
        """Let what the trainer launches go to `stream`, as `torch.cuda.stream` does."""
        before, cls.current = cls.current, stream
        if stream not in cls.streams:
            cls.streams.append(stream)
        yield
        cls.current = before

    @classmethod
    def run(cls) -> None:
        """Let the device do all that it was given."""
        cls.standing = False
        for stream in cls.streams:
            cls.run_only(stream)

    @classmethod
    def run_only(cls, stream: Stream) -> None:
        """Let it do what one stream was given."""
        for kernel in stream.waiting:
            kernel()
        with cls.moved:
            cls.done += len(stream.waiting)
            stream.done = stream.launched
            cls.moved.notify_all()
        stream.waiting.clear()

    @classmethod
    def wait_for(cls, stream: Stream, number: int) -> None:
        """Wait until so many kernels of a stream are done."""
        if threading.get_ident() == cls.trainer and stream.done < number:
            raise Waited
        with cls.moved:
            if not cls.moved.wait_for(lambda: stream.done >= number, HANG_GUARD_S):
                raise AssertionError("the queue was never run")

    @classmethod
    def wait_for_all(cls) -> None:
        """Wait for the whole device."""
        for stream in cls.streams:
            stream.synchronize()


class Event:
    """`torch.Event`, of the toy; `failures` has what its next uses raise."""

    failures: list[Exception | None] = []  # noqa: RUF012  # for all of them

    def __init__(self, device: Any) -> None:
        self.device = torch.device(DEVICE, 0)
        self.stream = Queue.default
        self.number = 0

    def record(self, stream: Stream) -> None:
        """Mark how far a stream is now."""
        failure = Event.failures.pop(0) if Event.failures else None
        if failure is not None:
            raise failure
        self.stream, self.number = stream, stream.launched

    def query(self) -> bool:
        """Return whether the device has come to it."""
        return self.stream.done >= self.number

    def synchronize(self) -> None:
        """Wait for it."""
        Queue.wait_for(self.stream, self.number)


def run_delayed(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Do what `toy_accelerator.run_on_cpu` does, when the queue comes to it."""
    if not Queue.standing or threading.get_ident() != Queue.trainer:
        return toy_accelerator.run_on_cpu(operation, *args, **kwargs)
    name = operation._schema.name
    if name in ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal"):
        raise Waited(name)
    if kwargs.get("device") is not None:
        kwargs["device"] = torch.device("cpu")
    given = kwargs.get("out", args[0] if args else None)
    args, kwargs = pytree.tree_map(unwrap, (args, kwargs))
    if operation._schema.is_mutable:
        Queue.launch(lambda: operation(*args, **kwargs))
        return given if operation._schema.returns else None
    held = operation(*args, **kwargs)  # for its shape; the numbers are those of later
    if any(alias.alias_info is not None for alias in operation._schema.returns):
        return pytree.tree_map(wrap, held)  # a view
    flat, spec = pytree.tree_flatten(held)

    def kernel() -> None:
        for kept, computed in zip(
            flat, pytree.tree_flatten(operation(*args, **kwargs))[0], strict=True
        ):
            kept.copy_(computed)

    for kept in flat:
        if isinstance(kept, torch.Tensor) and kept.is_floating_point():
            kept.fill_(float("nan"))
    Queue.launch(kernel)
    return pytree.tree_map(wrap, pytree.tree_unflatten(flat, spec))


def copy_from(source: Any, target: Any, non_blocking: bool = False) -> Any:
    """Copy, on the queue; a copy to the host that must be there at once only where none stands."""
    to_host = isinstance(source, Toy) and not isinstance(target, Toy)
    waits = to_host and not non_blocking
    if waits and Queue.standing and threading.get_ident() == Queue.trainer:
        raise Waited("a copy to the host")
    held, into = unwrap(source), unwrap(target)
    Queue.launch(lambda: into.copy_(held))
    return target


def empty(*args: Any, **kwargs: Any) -> Any:
    """Return memory that no kernel has written yet."""
    made = toy_accelerator.empty(*args, **kwargs)
    if made.held.is_floating_point():
        made.held.fill_(float("nan"))
    return made


def view(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Return a tensor that holds a view of what another holds."""
    args, kwargs = pytree.tree_map(unwrap, (args, kwargs))
    return pytree.tree_map(wrap, operation(*args, **kwargs))


_VIEWS = ("detach", "alias", "view", "unsqueeze", "squeeze", "expand", "_reshape_alias", "t")


def install() -> list[Any]:
    """Make it this process's accelerator; keep what is returned."""
    _setup_privateuseone_for_python_backend(DEVICE)
    everything, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    everything.fallback(run_delayed, "PrivateUse1")
    aten.impl("_copy_from", copy_from, "PrivateUse1")
    aten.impl("empty.memory_format", empty, "PrivateUse1")
    aten.impl("empty_strided", empty, "PrivateUse1")
    for name in _VIEWS:  # torch's own kernels for these would make tensors that hold nothing
        operation = getattr(torch.ops.aten, name.partition(".")[0])
        overload = getattr(operation, name.partition(".")[2] or "default")
        aten.impl(name, functools.partial(view, overload), "PrivateUse1")
    torch.Event, torch.Stream = Event, Stream  # type: ignore[misc, assignment]
    accelerator: Any = torch.accelerator
    accelerator.set_stream = lambda stream: None
    accelerator.current_stream = lambda device=None: Queue.current
    accelerator.set_device_index = lambda device: None
    accelerator.synchronize = lambda device=None: Queue.wait_for_all()
    return [everything, aten]
