#!/usr/bin/env bash
# torch 2.13.0: with torchrun, the c10d rendezvous and --nnodes=MIN:MAX, an agent that joins a job
# that has begun never starts its ranks, unless it comes before all others by its address. It waits
# for the address of the ranks' store under the round's number, where the first node's agent writes it
# in its first round only; that one has ended its ranks, and waits for the newcomer. After 60 s both
# fail ("wait timeout ... MASTER_ADDR", "... role_info").
# TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 has the address written in every round.
#
# Expected output:
#   torchrun: the newcomer waits for MASTER_ADDR and fails, and the first node with it
#   TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1: both nodes' ranks begin, and end well
#   as expected
#
# Exits with 0 while torch behaves so, with 1 once it does not. Takes a minute and a half.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6

cat >"$folder/rank.py" <<'PY'
import os
import pathlib
import sys
import time

case, agent = sys.argv[1], os.environ["AGENT"]
pathlib.Path(f"{case}-{agent}-{os.environ['WORLD_SIZE']}").touch()
if os.environ["WORLD_SIZE"] == "1":
    time.sleep(300)  # until its agent ends it, for another node has come
PY

cat >"$folder/try.py" <<'PY'
import os

os.environ.update(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")

import pathlib
import socket
import subprocess
import sys
import time


def joined(case, **variables):
    """Start an agent and, once its rank runs, a second one; return how they end, and its words."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2", "--nproc-per-node=1"]
    command += ["--max-restarts=3", "--monitor-interval=0.1", "--rdzv-backend=c10d"]
    command += ["--rdzv-id=job", f"--rdzv-endpoint=127.0.0.1:{port}"]

    def start(name, address):
        conf = f"--rdzv-conf=last_call_timeout=1,is_host={int(name == 'first')}"
        return subprocess.Popen(
            [*command, f"--local-addr={address}", conf, "rank.py", case],
            env={**os.environ, **variables, "AGENT": name},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    first = start("first", "127.0.0.1")
    try:
        deadline = time.monotonic() + 60
        while not pathlib.Path(f"{case}-first-1").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        second = start("second", "127.0.0.2")
        said, _ = second.communicate(timeout=150)
        first.communicate(timeout=90)
    finally:
        first.terminate()
        first.communicate()
    return [first.returncode, second.returncode], said


codes, said = joined("shared")
other_codes, other_said = joined("apart", TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
begun = {path.name for path in pathlib.Path().glob("*-second-*")}
as_expected = "MASTER_ADDR" in said and 0 not in codes and other_codes == [0, 0]
if not as_expected or begun != {"apart-second-2"}:
    print(codes, said, other_codes, other_said, begun, sep="\n", file=sys.stderr)
    sys.exit("torch behaves differently now")
print("torchrun: the newcomer waits for MASTER_ADDR and fails, and the first node with it")
print("TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1: both nodes' ranks begin, and end well")
print("as expected")
PY

cd "$folder"
venv/bin/python try.py
