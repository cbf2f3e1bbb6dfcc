#!/usr/bin/env bash
# torch 2.13.0: `sum()` of a DTensor that is split over ranks starts no collective, each rank adds up its
# own part, and so does `mean()` where the parts are equally long. Where they are not (7 numbers on two
# ranks), `mean()` gathers the whole tensor on every rank at once. Whoever logs a mean on rank 0 alone
# does well with 8 numbers, and with 7 has a rank that waits for the others. `var()` and `std()` gather
# in both cases.
#
# Expected output:
#   collectives on each of two ranks, 8 numbers: sum 0, mean 0, std 1
#   collectives on each of two ranks, 7 numbers: sum 0, mean 1, std 1
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

import json
import pathlib

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

STORE = pathlib.Path("store").absolute()
SIZES = (8, 7)
CALLS = ("sum", "mean", "std")


def collectives(tensor, call):
    """Return how many collectives this rank takes part in."""
    with CommDebugMode() as counted:
        getattr(tensor, call)()
    return counted.get_total_counts()


def work(rank):
    dist.init_process_group("gloo", init_method=f"file://{STORE}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    counts = {}
    for size in SIZES:
        tensor = distribute_tensor(torch.arange(float(size)), mesh, [Shard(0)])
        counts[size] = [collectives(tensor, call) for call in CALLS]  # every rank calls
    pathlib.Path(f"counts{rank}.json").write_text(json.dumps(counts))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(work, nprocs=2)
    ranks = [json.loads(pathlib.Path(f"counts{rank}.json").read_text()) for rank in range(2)]
    for size, counts in ranks[0].items():
        told = ", ".join(f"{call} {count}" for call, count in zip(CALLS, counts, strict=True))
        print(f"collectives on each of two ranks, {size} numbers: {told}")
    if ranks != [{"8": [0, 0, 1], "7": [0, 1, 1]}] * 2:
        raise SystemExit("torch behaves differently now")
    print("as expected")
PY

cd "$folder"
venv/bin/python try.py
