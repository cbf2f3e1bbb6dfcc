#!/usr/bin/env bash
# torch 2.13.0: `torchrun --rdzv-id` takes any text, and the rendezvous works with it. The agent then makes
# a folder for its logs of that name: with a "/" in it (team/7, a path), a FileNotFoundError about a
# folder in /tmp ends torchrun before a rank has started. `--log-dir` does not help.
#
# Expected output:
#   --rdzv-id=team-7: the rank ran
#   --rdzv-id=team/7: no rank ran, FileNotFoundError
#   --rdzv-id=team/7 --log-dir=logs: no rank ran, FileNotFoundError
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

os.environ.update(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo", TMPDIR=os.getcwd())

import pathlib
import subprocess
import sys

EXPECTED = ["the rank ran", *["no rank ran, FileNotFoundError"] * 2]

pathlib.Path("rank.py").write_text("print('the rank' + ' ran')")
found, logs = [], []
for options in (["--rdzv-id=team-7"], ["--rdzv-id=team/7"], ["--rdzv-id=team/7", "--log-dir=logs"]):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    done = subprocess.run(
        [*command, *options, "rank.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    logs.append(done.stdout)
    if done.returncode == 0 and "the rank ran" in done.stdout:
        found.append("the rank ran")
    elif "FileNotFoundError" in done.stdout and "the rank ran" not in done.stdout:
        found.append("no rank ran, FileNotFoundError")
    else:
        found.append(f"exit code {done.returncode}")
    print(f"{' '.join(options)}: {found[-1]}")
if found != EXPECTED:
    print(*logs, sep="\n", file=sys.stderr)
    sys.exit("torch behaves differently now")
print("as expected")
PY

cd "$folder"
venv/bin/python try.py
