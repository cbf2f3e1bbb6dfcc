"""An accelerator that is a Python object: for processes that have no other, and only for those.

Its tensors hold one on the CPU. torch takes it for a real device: methods such as `.cpu()` copy,
and autograd gives it a thread of its own.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from fasttrack.audit.session import Audit


class Toy(torch.Tensor):
    """A tensor on the device."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Toy:
        made: Any = torch._C._acc.create_empty_tensor(held.size(), held.dtype)
        made.__class__ = Toy
        made.held = held
        assert isinstance(made, Toy)
        return made


def wrap(value: Any) -> Any:
    return Toy(value) if type(value) is torch.Tensor else value


def unwrap(value: Any) -> Any:
    return value.held if isinstance(value, Toy) else value


def run_on_cpu(operation: Any, *args: Any, **kwargs: Any) -> Any:
    args, kwargs = pytree.tree_map(unwrap, (args, kwargs))
    if kwargs.get("device") is not None:
        kwargs["device"] = torch.device("cpu")
    return pytree.tree_map(wrap, operation(*args, **kwargs))


def copy_from(source: Any, target: Any, non_blocking: bool = False) -> Any:
    unwrap(target).copy_(unwrap(source))
    return target


def empty(size: Any, *_: Any, dtype: torch.dtype | None = None, **__: Any) -> Toy:
    return Toy(torch.empty(size, dtype=dtype))


def install() -> list[torch.library.Library]:
    """Make it this process's accelerator, as long as what is returned is kept."""
    _setup_privateuseone_for_python_backend("toy")
    everything, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    everything.fallback(run_on_cpu, "PrivateUse1")
    aten.impl("_copy_from", copy_from, "PrivateUse1")
    aten.impl("empty.memory_format", empty, "PrivateUse1")
    aten.impl("empty_strided", empty, "PrivateUse1")
    return [everything, aten]


class Sum(torch.autograd.Function):
    """A function whose backward waits, and notes its thread."""

    thread = 0

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.sum()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        Sum.thread = threading.get_ident()
        grad.item()
        return grad.expand(3)


def main() -> None:
    """Wait in every way, and print what the audit found, by line."""
    kept = install()
    with Audit() as audited:
        x = torch.ones(3).to("toy")
        x.cpu()
        x.tolist()
        x.copy_(torch.zeros(3))
        x.copy_(torch.zeros(3), non_blocking=True)
        x.sum().tolist()
        float(x.sum())
        x.nonzero()
        Sum.apply(x.requires_grad_()).backward()  # type: ignore[no-untyped-call]
    print(audited.devices, Sum.thread not in (0, threading.get_ident()), len(kept))
    for finding in sorted(audited.findings, key=lambda one: one.line):
        print(f"{finding.op}: {finding.source}")
    # Autograd's thread calls hooks that are Python here: it must not outlive the interpreter.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
