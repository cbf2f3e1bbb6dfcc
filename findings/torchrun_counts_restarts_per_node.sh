#!/usr/bin/env bash
# torch 2.13.0: TORCHELASTIC_RESTART_COUNT, which torchrun sets for the ranks, is counted by each node's
# agent for itself. The agent whose rank failed counts; the other ones start their ranks again for a
# change of members, which is not counted. So the ranks of one process group have different counts,
# and one count may be that of several groups: names made of it (of keys, of files) are not shared by
# the ranks, and not new after a restart.
#
# Expected output:
#   two agents, one rank each; the rank of the first one fails once
#   first start: 0 and 0
#   second start: 1 and 0
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
import sys
import time


def starts(agent):
    """Return the counts that the rank of an agent had, start by start."""
    path = pathlib.Path(f"counts-{agent}")
    return path.read_text().split() if path.exists() else []


agent = os.environ["AGENT"]
with open(f"counts-{agent}", "a") as file:
    file.write(os.environ["TORCHELASTIC_RESTART_COUNT"] + "\n")
mine = len(starts(agent))
while min(len(starts(each)) for each in ("first", "second")) < mine:
    time.sleep(0.05)
if mine == 1:
    if agent == "first":
        sys.exit("fails")
    time.sleep(60)  # until its agent ends it
    sys.exit("was not started again")
PY

cat >"$folder/try.py" <<'PY'
import os

os.environ.update(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")

import pathlib
import socket
import subprocess
import sys

with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
command += ["--max-restarts=1", "--monitor-interval=0.1", "--rdzv-backend=c10d", "--rdzv-id=job"]
command += [f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1"]
agents, logs = [], []
for name in ("first", "second"):
    conf = f"--rdzv-conf=is_host={int(name == 'first')}"
    logs.append(open(f"log-{name}", "w+"))
    agents.append(
        subprocess.Popen(
            [*command, conf, "rank.py"],
            env={**os.environ, "AGENT": name},
            stdout=logs[-1],
            stderr=subprocess.STDOUT,
        )
    )
try:
    codes = [agent.wait(90) for agent in agents]
finally:
    for agent in agents:
        agent.terminate()
    counts = [pathlib.Path(f"counts-{name}") for name in ("first", "second")]
    found = [path.read_text().split() if path.exists() else [] for path in counts]

print("two agents, one rank each; the rank of the first one fails once")
for which, pair in zip(("first", "second"), zip(*found, strict=False), strict=False):
    print(f"{which} start:", " and ".join(pair))
if (codes, found) != ([0, 0], [["0", "1"], ["0", "0"]]):
    for log in logs:
        log.seek(0)
        print(log.read(), file=sys.stderr)
    sys.exit("torch behaves differently now")
print("as expected")
PY

cd "$folder"
venv/bin/python try.py
