#!/usr/bin/env bash
# Lightning 2.6.6: `get_available_flops`, by which `ThroughputMonitor` and `Throughput` make their MFU, has
# figures of three kinds in one table. Most are those of the data sheet's tensor cores, dense. Of the
# H100 NVL it is the one with sparsity, of two boards at that: twice the H100 SXM's, which is
# the faster card; so the MFU is less than half of what it is. Of the A40, the RTX A6000 and the RTX 4090
# it is that of the shader cores: the MFU is two to four times as high as it is, and may be above 1. (Of
# the A40 and the A6000 the table says that bf16 is half as fast as tf32; it is twice as fast.)
#
# The name of the device is the only thing that is set here. "Data sheet": NVIDIA's, bf16, dense,
# sums in 32 bits.
#
# Expected output:
#   bf16 TFLOP/s: Lightning / data sheet
#   NVIDIA H100 80GB HBM3: 989.4 / 989.4 = 1.00
#   NVIDIA H100 NVL: 1978.8 / 835.5 = 2.37
#   NVIDIA A100-SXM4-80GB: 312.0 / 312.0 = 1.00
#   NVIDIA A40: 37.4 / 149.7 = 0.25
#   NVIDIA RTX A6000: 38.7 / 154.8 = 0.25
#   NVIDIA GeForce RTX 4090: 82.6 / 165.2 = 0.50
#   tf32 TFLOP/s of the A100, A40, RTX A6000: 156.0, 74.8, 77.4
#   as expected
#
# Exits with 0 while Lightning behaves so, with 1 once it does not.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q lightning==2.6.6 torch==2.13.0 numpy==2.4.6

cat >"$folder/try.py" <<'PY'
from unittest import mock

import torch
from lightning.fabric.utilities.throughput import get_available_flops

A40, A100, A6000 = "NVIDIA A40", "NVIDIA A100-SXM4-80GB", "NVIDIA RTX A6000"
SHEETS = {  # TFLOP/s, bf16, dense
    "NVIDIA H100 80GB HBM3": 989.4,
    "NVIDIA H100 NVL": 835.5,
    A100: 312.0,
    A40: 149.7,
    A6000: 154.8,
    "NVIDIA GeForce RTX 4090": 165.2,
}


def available(name, kind=torch.bfloat16):
    """Return what Lightning takes for the peak of a device of this name, in TFLOP/s."""
    with mock.patch("torch.cuda.get_device_name", return_value=name):
        return get_available_flops(torch.device("cuda"), kind) / 1e12


ratios = []
print("bf16 TFLOP/s: Lightning / data sheet")
for name, sheet in SHEETS.items():
    told = available(name)
    ratios.append(f"{told / sheet:.2f}")
    print(f"{name}: {told:.1f} / {sheet} = {ratios[-1]}")
tf32 = [f"{available(name, 'tfloat32'):.1f}" for name in (A100, A40, A6000)]
print("tf32 TFLOP/s of the A100, A40, RTX A6000:", ", ".join(tf32))
if ratios != ["1.00", "2.37", "1.00", "0.25", "0.25", "0.50"] or tf32 != ["156.0", "74.8", "77.4"]:
    raise SystemExit("Lightning behaves differently now")
print("as expected")
PY

cd "$folder"
venv/bin/python try.py
