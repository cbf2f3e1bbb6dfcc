"""`reduce` and `reduce_grad_norm` on a real GPU, over NCCL: nothing waits for the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed as dist
from support.cuda import BUSY_CYCLES, waiting_forbidden

from fasttrack import ExperimentTracker
from fasttrack.collective.members import members_of
from fasttrack.collective.packet import OPS, pack, reduction_of, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def one_rank(tmp_path: Path) -> Iterator[None]:
    """A process group of NCCL's, in which waiting for the device raises."""
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    dist.all_reduce(torch.ones(1, device="cuda"))  # it connects at the first one
    torch.cuda.synchronize()
    try:
        with waiting_forbidden():
            yield
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("op", OPS)
def test_a_packet_is_reduced_without_a_wait(op: str) -> None:
    """Of tensors there, in two dtypes, of a float, and of nothing, behind a device that is busy."""
    device = members_of(None).device()
    there = torch.full((1,), 0.5, device=device)
    torch.cuda._sleep(BUSY_CYCLES)
    packet = pack([there, there.bfloat16(), 2.5, None], op, 7, device)
    dist.all_reduce(packet, op=reduction_of(op))
    results, alike = unpack(packet, 4, op, 7, 1)
    assert not torch.cuda.current_stream().query(), "the device was waited for"

    torch.cuda.set_sync_debug_mode("default")
    assert device.type == "cuda"
    assert [result.item() for result in results[:3]] == [0.5, 0.5, 2.5]
    assert results[3].isnan()
    assert alike


def test_a_model_on_the_gpu_has_its_norm_without_a_wait() -> None:
    """With FSDP2, whose mesh has one rank."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.cuda.set_sync_debug_mode("default")
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 3)).cuda()
    fully_shard(model, mesh=init_device_mesh("cuda", (1,)))
    loss = model(torch.ones(8, 64, device="cuda")).square().mean()
    loss.backward()
    torch.cuda.synchronize()
    tracker = ExperimentTracker(enabled=False)
    torch.cuda._sleep(BUSY_CYCLES)
    torch.cuda.set_sync_debug_mode("error")
    norm, mean = tracker.reduce_grad_norm(model), tracker.reduce(loss)
    assert not torch.cuda.current_stream().query(), "the device was waited for"

    torch.cuda.set_sync_debug_mode("default")
    gradients = [p.grad.full_tensor() for p in model.parameters()]  # type: ignore[union-attr]
    true = torch.nn.utils.get_total_norm(gradients)
    assert norm.item() == pytest.approx(true.item(), rel=1e-6)
    assert mean.item() == pytest.approx(loss.item())
