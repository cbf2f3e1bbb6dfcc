#!/usr/bin/env bash
# torch 2.13.0: with torchrun, the c10d rendezvous and --nnodes=MIN:MAX, a node that joins a job that
# has begun does not come together with the rest, because each agent keeps the address of the ranks'
# store from its first round on.
# - The newcomer is not the first by its address: its agent waits for MASTER_ADDR under the number of
#   this round, where the first node's agent does not write it again, and that one waits for the
#   newcomer. After 60 s both fail.
# - It is the first by its address: its agent serves a new store, and the other's rank is told the one
#   of the round before: `init_process_group` of rank 1 asks a store to which rank 0 never comes.
# TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 has the address written and read in every round.
#
# Expected output:
#   joins as the second: it waits for MASTER_ADDR and fails, and the first node with it
#   joins as the first: the ranks of the group of two are told 2 stores
#   with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1: 1 store, 1 store
#   as expected
#
# Exits with 0 while torch behaves so, with 1 once it does not. Takes two minutes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6

cat >"$folder/rank.py" <<'PY'
import os
import pathlib
import time

size = os.environ["WORLD_SIZE"]
with open("ranks", "a") as file:
    file.write(" ".join((size, os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"])) + "\n")
while size == "1" or not pathlib.Path("end").exists():  # its agent ends it: another node has come
    time.sleep(0.1)
PY

cat >"$folder/try.py" <<'PY'
import os

os.environ.update(OMP_NUM_THREADS="1")

import contextlib
import pathlib
import socket
import subprocess
import sys
import time

RANK = pathlib.Path("rank.py").resolve()
PATIENCE_S = 150


class Job:
    """Two agents on loopback, the second of which joins once the first one's rank runs."""

    def __init__(self, folder, newcomer, **variables):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir()
        self.environment = {**os.environ, **variables}
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        with contextlib.ExitStack() as stack:
            first = self.agent("127.0.0.2", 1)
            stack.callback(first.kill)
            self.wait_for(lambda: self.ranks())
            second = self.agent(newcomer, 0)
            stack.callback(second.kill)
            self.wait_for(lambda: len(self.ranks()) == 3 or second.poll() is not None)
            (self.folder / "end").touch()
            self.codes = [agent.wait(PATIENCE_S) for agent in (first, second)]
        self.stores = {tuple(store) for size, *store in self.ranks() if size == "2"}

    def agent(self, address, hosts):
        command = [sys.executable, "-m", "torch.distributed.run"]
        command += ["--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=3"]
        command += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{self.port}"]
        command += [f"--rdzv-conf=last_call_timeout=1,is_host={hosts}", "--rdzv-id=job"]
        command += [f"--local-addr={address}", "--monitor-interval=0.1", str(RANK)]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )

    def ranks(self):
        path = self.folder / "ranks"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for(self, condition):
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                sys.exit(f"{self.ranks()} began only\n{self.log}")
            time.sleep(0.1)

    @property
    def log(self):
        return (self.folder / "log").read_text()


apart = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
second, first = Job("second", "127.0.0.3"), Job("first", "127.0.0.1")
others = [Job("second_apart", "127.0.0.3", **apart), Job("first_apart", "127.0.0.1", **apart)]
jobs = (second, first, *others)
as_expected = (
    0 not in second.codes
    and "MASTER_ADDR" in second.log
    and [len(job.stores) for job in jobs] == [0, 2, 1, 1]
    and all(job.codes == [0, 0] for job in (first, *others))
)
if not as_expected:
    for job in jobs:
        print(job.codes, job.ranks(), job.log, file=sys.stderr)
    sys.exit("torch behaves differently now")
print("joins as the second: it waits for MASTER_ADDR and fails, and the first node with it")
print("joins as the first: the ranks of the group of two are told 2 stores")
print("with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1: 1 store, 1 store")
print("as expected")
PY

cd "$folder"
venv/bin/python try.py
