#!/usr/bin/env bash
# TensorBoard 2.21.0 (with its data server 0.7.2): a scalar that is stored as a 64-bit tensor is not
# shown by the default server, and nothing says so. The same files read by the server in Python
# (`--load_fast=false`) show it, to the last digit.
#
# The scalars plugin's metadata allow any floating-point tensor, and TensorBoard's own reader in
# Python (EventAccumulator) returns it; the default server drops the whole tag. A 32-bit value in the
# same file is shown by both.
#
# Expected output:
#   default server: f32
#   --load_fast=false: f32 f64, f64 = 0.1
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
from tensorboard.compat.proto.types_pb2 import DT_DOUBLE, DT_FLOAT
from tensorboard.plugins.scalar.metadata import create_summary_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

logs = pathlib.Path("logs/run")
logs.mkdir(parents=True)
with open(logs / "events.out.tfevents.1700000000.host", "wb") as file:
    writer = RecordWriter(file)
    writer.write(Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString())
    for step in range(3):
        event = Event(wall_time=2.0 + step, step=step)
        single = event.summary.value.add(tag="f32", metadata=create_summary_metadata("", ""))
        single.tensor.dtype = DT_FLOAT
        single.tensor.tensor_shape.SetInParent()
        single.tensor.float_val.append(0.1)
        double = event.summary.value.add(tag="f64", metadata=create_summary_metadata("", ""))
        double.tensor.dtype = DT_DOUBLE
        double.tensor.tensor_shape.SetInParent()
        double.tensor.double_val.append(0.1)
        writer.write(event.SerializeToString())


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/plugin/scalars/{path}") as reply:
        return json.load(reply)


def ask(*options):
    """Return the tags that a server shows for the run, and the first value of f64 if it is there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "logs", "--host", "127.0.0.1"]
    server = subprocess.Popen(
        [*command, "--port", str(port), "--reload_interval", "1", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                tags = sorted(get(port, "tags").get("run", {}))
            except (OSError, ValueError):
                tags = []
            if tags:
                break
            time.sleep(0.2)
        value = get(port, "scalars?run=run&tag=f64")[0][2] if "f64" in tags else None
        return tags, value
    finally:
        server.terminate()
        server.wait()


fast, _ = ask()
slow, value = ask("--load_fast=false")
print("default server:", *fast)
print("--load_fast=false:", " ".join(slow) + f", f64 = {value}")
if (fast, slow, value) != (["f32"], ["f32", "f64"], 0.1):
    sys.exit("TensorBoard behaves differently now")
print("as expected")
PY

cd "$folder"
venv/bin/python try.py
