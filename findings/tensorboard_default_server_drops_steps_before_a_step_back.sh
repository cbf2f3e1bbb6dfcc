#!/usr/bin/env bash
# TensorBoard 2.21.0 (with its data server 0.7.2): where the steps of one run go back, as after a
# resume from an older checkpoint, the default server forgets the points at and after the step gone
# back to. Its reader in Python keeps them all: for files that say "brain.Event:2" it purges only at
# an explicit session start. Whoever compares the page with the file, or with `--load_fast=false`,
# sees different curves of the same file.
#
# Expected output:
#   logged steps: 0 1 2 3 2 3 4
#   default server: 0 1 2 3 4
#   --load_fast=false: 0 1 2 3 2 3 4
#   as expected
#
# Exits with 0 while TensorBoard behaves so, with 1 once it does not.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q tensorboard==2.21.0 tensorboard-data-server==0.7.2 protobuf==6.33.6 numpy==2.4.6 setuptools==80.9.0

cat >"$folder/try.py" <<'PY'
import json
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

LOGGED = [0, 1, 2, 3, 2, 3, 4]

logs = pathlib.Path("logs/run")
logs.mkdir(parents=True)
with open(logs / "events.out.tfevents.1700000000.host", "wb") as file:
    writer = RecordWriter(file)
    writer.write(Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString())
    for number, step in enumerate(LOGGED):
        event = Event(wall_time=2.0 + number, step=step)
        event.summary.value.add(tag="loss", simple_value=number)
        writer.write(event.SerializeToString())


def ask(*options):
    """Return the steps that a server shows."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "logs", "--host", "127.0.0.1"]
    server = subprocess.Popen(
        [*command, "--port", str(port), "--reload_interval", "1", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/data/plugin/scalars/scalars?run=run&tag=loss"
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(url) as reply:
                    return [point[1] for point in json.load(reply)]
            except (OSError, ValueError):
                time.sleep(0.2)
        return []
    finally:
        server.terminate()
        server.wait()


fast, slow = ask(), ask("--load_fast=false")
print("logged steps:", *LOGGED)
print("default server:", *fast)
print("--load_fast=false:", *slow)
if (fast, slow) != ([0, 1, 2, 3, 4], LOGGED):
    sys.exit("TensorBoard behaves differently now")
print("as expected")
PY

cd "$folder"
venv/bin/python try.py
