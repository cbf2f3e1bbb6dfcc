#!/usr/bin/env bash
# Lightning 2.6.6: `get_available_flops`, by which `ThroughputMonitor` and `Throughput` make their MFU,
# looks for pieces of the device's name. "L4" is found in "L40S" and in "L40", "A40" in "RTX A4000": these
# get another card's peak, without a warning, and the MFU of an L40S is three times as high as it is.
# (The L40's own entry is taken for names with "Tesla" only.) "NVIDIA H200" is not found, as the table
# has it by "sxm1" and "nvl1", which are not in the name.
#
# The name of the device is the only thing that is set here.
#
# Expected output:
#   NVIDIA L4: 121.0 TFLOP/s
#   NVIDIA L40: 121.0 TFLOP/s
#   NVIDIA L40S: 121.0 TFLOP/s
#   NVIDIA A40: 37.4 TFLOP/s
#   NVIDIA RTX A4000: 37.4 TFLOP/s
#   NVIDIA H200: None, "FLOPs not found"
#   warnings for the others: 0
#   as expected
#
# Exits with 0 while Lightning behaves so, with 1 once it does not.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q lightning==2.6.6 torch==2.13.0 numpy==2.4.6

cat >"$folder/try.py" <<'PY'
import warnings
from unittest import mock

import torch
from lightning.fabric.utilities.throughput import get_available_flops

EXPECTED = {
    "NVIDIA L4": 121e12,
    "NVIDIA L40": 121e12,
    "NVIDIA L40S": 121e12,
    "NVIDIA A40": 37.4e12,
    "NVIDIA RTX A4000": 37.4e12,
    "NVIDIA H200": None,
}

found, said = {}, {}
for name in EXPECTED:
    with (
        mock.patch("torch.cuda.get_device_name", return_value=name),
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("always")
        found[name] = get_available_flops(torch.device("cuda"), torch.bfloat16)
    said[name] = " ".join(str(each.message) for each in warned)
    if found[name] is None:
        print(f'{name}: None, "FLOPs not found"')
    else:
        print(f"{name}: {found[name] / 1e12:.1f} TFLOP/s")
unknown = said.pop("NVIDIA H200")
print("warnings for the others:", sum(map(bool, said.values())))
if found != EXPECTED or "FLOPs not found" not in unknown or any(said.values()):
    raise SystemExit("Lightning behaves differently now")
print("as expected")
PY

cd "$folder"
venv/bin/python try.py
