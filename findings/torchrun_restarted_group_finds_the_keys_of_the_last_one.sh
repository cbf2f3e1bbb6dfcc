#!/usr/bin/env bash
# torch 2.13.0: with torchrun and the c10d rendezvous (`--standalone`, too) the ranks' key-value store is
# the agent's, and stays when the ranks are started again. The new process group finds the keys of
# the one before. What waits for a key does not wait then: with gloo a rank may read the address of a
# process that is dead, and `init_process_group` fails or does not end. torch itself relies on the
# opposite ("We create a new TCPStore for every retry so no need to add prefix for each attempt").
# TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 gives each group a store of its own.
#
# Expected output:
#   torchrun: first start: "leader" is not in the store, second start: it is
#   TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1: first start: it is not, second start: it is not
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
import sys

from torch.distributed.rendezvous import rendezvous

store, _, _ = next(iter(rendezvous("env://")))  # what init_process_group takes
with open(sys.argv[1], "a") as file:
    file.write("it is\n" if store.check(["leader"]) else "it is not\n")
store.set("leader", str(os.getpid()))
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    sys.exit("fails")
PY

cat >"$folder/try.py" <<'PY'
import os

os.environ.update(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")

import pathlib
import subprocess
import sys


def started_twice(name, **variables):
    """Return what the rank found at its first and at its second start, and torchrun's output."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    command += ["--local-addr=127.0.0.1", "--max-restarts=1", "--monitor-interval=0.1"]
    done = subprocess.run(
        [*command, "rank.py", name],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
    )
    path = pathlib.Path(name)
    return (path.read_text().splitlines() if path.exists() else []), done.stdout


shared, log = started_twice("shared")
apart, other_log = started_twice("apart", TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
if (shared, apart) != (["it is not", "it is"], ["it is not", "it is not"]):
    print(shared, log, apart, other_log, sep="\n", file=sys.stderr)
    sys.exit("torch behaves differently now")
print('torchrun: first start: "leader" is not in the store, second start: it is')
print("TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1: first start: it is not, second start: it is not")
print("as expected")
PY

cd "$folder"
venv/bin/python try.py
