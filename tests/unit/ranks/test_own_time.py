"""What a training thread is seen doing: loading data, computing, waiting for others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, TCPStore

from fasttrack.collective.agreement import Agreement
from fasttrack.ranks.messages import Span
from fasttrack.ranks.own_time import OwnTime

HANG_GUARD_S = 30.0


class Gate:
    """Where a thread stays until it was looked at."""

    def __init__(self) -> None:
        self.reached, self.passed = threading.Event(), threading.Event()

    def stay(self, *_: Any) -> None:
        """Stay."""
        self.reached.set()
        assert self.passed.wait(HANG_GUARD_S)


class Data(torch.utils.data.Dataset[Any]):
    """A dataset whose first item takes a while."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def __len__(self) -> int:
        """Return how many items there are."""
        return 2

    def __getitem__(self, index: int) -> float:
        """Wait as for a slow disk."""
        self.gate.stay()
        return 0.0


@contextmanager
def staying(gate: Gate, work: Callable[[], object]) -> Iterator[int]:
    """Run `work` on a thread until it stays at the gate; give the thread's ident."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert gate.reached.wait(HANG_GUARD_S)
    assert thread.ident is not None
    try:
        yield thread.ident
    finally:
        gate.passed.set()
        thread.join(HANG_GUARD_S)


def look(ident: int, pauses: list[float] | None = None, accelerator: bool = False) -> Span:
    """Return one look."""
    span = Span()
    OwnTime(ident, pauses or [], lambda: accelerator).look(span)
    return span


@pytest.mark.parametrize("accelerator", [False, True])
def test_loading_data_is_own_time_everywhere(accelerator: bool) -> None:
    """Whatever of the user's runs inside the DataLoader."""
    gate = Gate()
    loader = torch.utils.data.DataLoader(Data(gate))
    with staying(gate, lambda: next(iter(loader))) as ident:
        span = look(ident, accelerator=accelerator)

    assert span == Span(0.0, 0, 1, 1, 1)


def test_computing_is_own_time_unless_a_device_may_be_waited_for() -> None:
    """On an accelerator the line may wait for what others compute."""
    gate = Gate()
    module = torch.nn.Identity()
    module.register_forward_hook(gate.stay)
    with staying(gate, lambda: module(torch.zeros(1))) as ident:
        assert look(ident) == Span(0.0, 0, 1, 0, 1)
        assert look(ident, accelerator=True) == Span(0.0, 0, 1, 0, 0)


def test_backward_pass_counts_as_waiting() -> None:
    """Gradients are exchanged in it; also where it calls Python of the user's."""
    gate = Gate()
    leaf = torch.zeros(1, requires_grad=True)
    leaf.register_hook(gate.stay)
    with staying(gate, (leaf * 2).sum().backward) as ident:
        span = look(ident)

    assert span == Span(0.0, 0, 1, 0, 0)


def seen_waiting() -> threading.Event:
    """Return what is set once this thread is seen at what is not its own."""
    seen = threading.Event()
    main = threading.get_ident()

    def watch() -> None:
        while look(main).own:
            pass
        seen.set()

    threading.Thread(target=watch, daemon=True).start()
    return seen


def test_waiting_for_other_ranks_is_no_own_time() -> None:
    """For one that never comes, in a function of torch.distributed."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    seen = seen_waiting()
    with pytest.raises(RuntimeError, match=r".+"):
        dist.init_process_group(
            "gloo", store=store, rank=0, world_size=2, timeout=timedelta(seconds=1)
        )

    assert seen.wait(HANG_GUARD_S)


def test_waiting_for_other_ranks_logging_calls_is_no_own_time() -> None:
    """Before what is split over them is reduced; the other one never comes."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        seen = seen_waiting()
        why = Agreement("0", (0, 1), patience_s=0.5).why_not("log_metrics")
    finally:
        dist.destroy_process_group()

    assert seen.wait(HANG_GUARD_S)
    assert why is not None
    assert why.startswith("rank 1 of 2 ranks did not make this call within 0.5 s")


def test_pause_and_a_thread_that_is_gone_tell_nothing() -> None:
    """What is no training is neither own time nor waiting."""
    assert look(threading.get_ident(), pauses=[1.0]) == Span()
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert thread.ident is not None
    assert look(thread.ident) == Span()
