"""Values and gradients of torch.distributed, on two real ranks of which only one logs.

A collective that rank 0 alone began would hang, and fail the test by its guard.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.runs import start_script

HANG_GUARD_S = 240.0

RANK = """
import json, sys, warnings
warnings.simplefilter("ignore")  # torch.distributed's own
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from fasttrack.errors import ValueRefusedError
from fasttrack.hotpath.capture import Capture
from fasttrack.hotpath.gradients import GradientSource

rank, store = int(sys.argv[1]), dist.FileStore(sys.argv[2], 2)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
results = {}

def log(kind, value):
    if rank:
        return
    for mode in ("snapshot", "reference"):
        try:
            kept = Capture(mode).scalar("m", value)
            kept = kept[0] if type(kept) is tuple else kept
            results[kind, mode] = kept if isinstance(kept, float) else kept.item()
        except ValueRefusedError as error:
            results[kind, mode] = str(error)

def look(kind, model):
    if rank:
        return
    heard = []
    source = GradientSource("inline", 2**30, lambda key, text: heard.append(text))
    captured = source.capture(model)
    results[kind, "norm"] = None if captured is None else captured.item()
    results[kind, "heard"] = heard

torch.manual_seed(0)
model = torch.nn.Linear(4, 8)
fully_shard(model, mesh=mesh)
loss = model(torch.ones(5, 4)).pow(2).sum()
loss.backward()
norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
results["true", "norm"] = norm.full_tensor().item()  # a collective, so on both ranks
log("clipped", norm)
log("partial", model.weight.sum().detach())
look("fsdp2", model)

whole = torch.nn.Linear(4, 2)
for name, parameter in list(whole.named_parameters()):
    spread = distribute_tensor(parameter.data, mesh, [Replicate()])
    setattr(whole, name, torch.nn.Parameter(spread))
for parameter in whole.parameters():
    parameter.grad = distribute_tensor(torch.ones(parameter.shape), mesh, [Replicate()])
look("replicated", whole)
log("replicated_loss", distribute_tensor(torch.tensor(2.5), mesh, [Replicate()]))
log("one_of_many", distribute_tensor(torch.ones(4), mesh, [Replicate()]))
for parameter in whole.parameters():
    parameter.grad = None
whole.weight.grad = whole.weight.detach().redistribute(mesh, [Replicate()])
whole.bias.grad = distribute_tensor(torch.ones(2), mesh, [Shard(0)])
try:
    look("partial_gradient", whole)
except ValueRefusedError as error:
    results["partial_gradient", "heard"] = [str(error)]

pending = collectives.all_reduce(torch.tensor(float(rank + 1)), "sum", (mesh, 0))
log("pending", pending)
pending = pending.wait() if hasattr(pending, "wait") else pending + 0
log("waited", pending)

if not rank:
    print(json.dumps({" ".join(key): value for key, value in results.items()}))
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What rank 0 of two got."""
    store = tmp_path_factory.mktemp("store") / "store"
    ranks = [start_script(RANK, str(rank), str(store), warnings=None) for rank in range(2)]
    try:
        told = [process.communicate(timeout=HANG_GUARD_S) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    assert told[0][0], "".join(errors for _, errors in told)
    result: dict[str, Any] = json.loads(told[0][0].splitlines()[-1])
    return result


@pytest.mark.parametrize("mode", ["snapshot", "reference"])
def test_what_clip_grad_norm_returned_is_taken(seen: dict[str, Any], mode: str) -> None:
    """Our warning named it, and then it was refused: it is a DTensor, but a replicated one."""
    assert seen[f"clipped {mode}"] == pytest.approx(seen["true norm"])


@pytest.mark.parametrize("mode", ["snapshot", "reference"])
def test_a_replicated_loss_is_taken(seen: dict[str, Any], mode: str) -> None:
    """Each rank has the whole value; nothing is asked of the other."""
    assert seen[f"replicated_loss {mode}"] == 2.5
    assert "shape (4,)" in seen[f"one_of_many {mode}"]


@pytest.mark.parametrize("mode", ["snapshot", "reference"])
def test_a_part_of_a_sum_is_refused(seen: dict[str, Any], mode: str) -> None:
    """Its `item()` is one rank's share, without a word from torch."""
    assert "on every rank call tracker.reduce(tensor)" in seen[f"partial {mode}"]


def test_gradients_of_fsdp2_are_refused(seen: dict[str, Any]) -> None:
    """The norm of one rank's shards is not the model's."""
    assert seen["fsdp2 norm"] is None
    assert "clip_grad_norm_" in seen["fsdp2 heard"][0]


def test_gradients_that_are_whole_on_each_rank_count(seen: dict[str, Any]) -> None:
    """A model of replicated DTensors: ten gradients of one."""
    assert seen["replicated norm"] == pytest.approx(10**0.5)
    assert seen["replicated heard"] == []


def test_a_gradient_that_is_a_part_is_refused(seen: dict[str, Any]) -> None:
    """Of a parameter that is whole."""
    assert "holds a part" in seen["partial_gradient heard"][0]


@pytest.mark.parametrize("mode", ["snapshot", "reference"])
def test_a_value_still_in_a_collective_is_not_waited_for(seen: dict[str, Any], mode: str) -> None:
    """On the CPU the caller would wait for the slowest rank. Once it is used it is there."""
    assert "a collective still computes it" in seen[f"pending {mode}"]
    assert seen[f"waited {mode}"] == 3.0
