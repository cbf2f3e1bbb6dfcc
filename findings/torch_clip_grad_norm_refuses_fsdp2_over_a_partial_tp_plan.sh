#!/usr/bin/env bash
# torch 2.13.0: FSDP2 (`fully_shard`) over tensor parallelism, with a plan that leaves a layer out, as
# plans often do with norms: the parameters of that layer lie on the mesh of FSDP alone, those of
# the others on both. Training works, each kind can be clipped by itself, but
# `clip_grad_norm_(model.parameters())` raises a RuntimeError, after the first backward pass.
#
# Expected output:
#   on dp: norm.weight, norm.bias
#   on dp, tp: up.weight, up.bias, down.weight, down.bias
#   clip_grad_norm_ of the first: well
#   clip_grad_norm_ of the second: well
#   clip_grad_norm_ of all: RuntimeError (aten.stack.default, must have the same mesh)
#   as expected
#
# Exits with 0 while torch behaves so, with 1 once it does not.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6

cat >"$folder/try.py" <<'PY'
import os

os.environ.update(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")

import pathlib

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

STORE = pathlib.Path("store").absolute()
EXPECTED = """\
on dp: norm.weight, norm.bias
on dp, tp: up.weight, up.bias, down.weight, down.bias
clip_grad_norm_ of the first: well
clip_grad_norm_ of the second: well
clip_grad_norm_ of all: RuntimeError (aten.stack.default, must have the same mesh)"""


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(4)
        self.up = torch.nn.Linear(4, 8)
        self.down = torch.nn.Linear(8, 4)

    def forward(self, x):
        return x + self.down(self.up(self.norm(x)).relu())


def clip(parameters):
    """Say how that went, on this rank."""
    try:
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    except RuntimeError as error:
        text = str(error)
        parts = [part for part in ("aten.stack.default", "must have the same mesh") if part in text]
        return f"RuntimeError ({', '.join(parts)})"
    return "well"


def work(rank):
    dist.init_process_group("gloo", init_method=f"file://{STORE}", rank=rank, world_size=4)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    model = parallelize_module(Block(), mesh["tp"], plan)
    fully_shard(model, mesh=mesh["dp"])
    model(torch.ones(2, 4)).square().sum().backward()
    by_mesh = {}
    for name, parameter in model.named_parameters():
        by_mesh.setdefault(parameter.device_mesh.mesh_dim_names, []).append((name, parameter))
    lines = [
        f"on {', '.join(names)}: {', '.join(name for name, _ in found)}"
        for names, found in by_mesh.items()
    ]
    for which, found in zip(("first", "second"), by_mesh.values(), strict=True):
        lines.append(f"clip_grad_norm_ of the {which}: {clip([each for _, each in found])}")
    lines.append(f"clip_grad_norm_ of all: {clip(model.parameters())}")
    pathlib.Path(f"said{rank}").write_text("\n".join(lines))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(work, nprocs=4)
    said = [pathlib.Path(f"said{rank}").read_text() for rank in range(4)]
    print(said[0])
    if said != [EXPECTED] * 4:
        raise SystemExit("torch behaves differently now")
    print("as expected")
PY

cd "$folder"
venv/bin/python try.py
