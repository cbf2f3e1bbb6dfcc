#!/usr/bin/env bash
# torch 2.13.0: two torchrun agents, c10d rendezvous, --nnodes=1:2. One agent trains alone, then a
# second one joins whose address sorts before the first's, so that its rank is rank 0 of the new
# group. Its agent serves a new key-value store, but the first agent gives its ranks the address
# of the store that it served in the round before: MASTER_ADDR and MASTER_PORT of the two ranks
# differ, and `init_process_group` of rank 1 asks a store to which rank 0 never comes.
# (DynamicRendezvousHandler keeps its store's address from its first round on, and makes a new one
# only where it is itself the first now.) TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 gives both ranks one
# address.
#
# Expected output:
#   torchrun: the ranks of the group of two have 2 different stores
#   TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1: the ranks of the group of two have 1 store
#   as expected
#
# Exits with 0 while torch behaves so, with 1 once it does not.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6

cat >"$folder/rank.py" <<'PY'
import os
import pathlib
import time

said = [os.environ[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")]
with open("ranks", "a") as file:
    file.write(" ".join(said) + "\n")
while not pathlib.Path("end").exists():
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


class Job:
    """Agents on loopback, and what their ranks wrote."""

    def __init__(self, name, **variables):
        self.folder = pathlib.Path(name)
        self.folder.mkdir()
        self.environment = {**os.environ, **variables}
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]

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

    def wait_for(self, count):
        deadline = time.monotonic() + 90
        while len(self.ranks()) < count:
            if time.monotonic() > deadline:
                sys.exit(f"{self.ranks()} began only\n{(self.folder / 'log').read_text()}")
            time.sleep(0.1)


def stores(job):
    """Return the stores that the ranks of the group of two were told."""
    with contextlib.ExitStack() as stack:
        first = job.agent("127.0.0.2", 1)
        stack.callback(first.kill)
        job.wait_for(1)
        second = job.agent("127.0.0.1", 0)
        stack.callback(second.kill)
        job.wait_for(3)
        (job.folder / "end").touch()
        first.wait(60)
        second.wait(60)
    return {tuple(store) for _, size, *store in job.ranks() if size == "2"}


shared, apart = (
    stores(Job("shared")),
    stores(Job("apart", TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")),
)
if (len(shared), len(apart)) != (2, 1):
    sys.exit(f"torch behaves differently now: {shared} {apart}")
print("torchrun: the ranks of the group of two have 2 different stores")
print("TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1: the ranks of the group of two have 1 store")
print("as expected")
PY

cd "$folder"
venv/bin/python try.py
