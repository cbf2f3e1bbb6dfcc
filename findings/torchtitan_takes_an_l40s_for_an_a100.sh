#!/usr/bin/env bash
# torchtitan 0.3.0: `get_peak_flops`, by which its MFU is made, has the L40S, but looks for "l40s" in a name
# that has it in capitals ("NVIDIA L40S"), as all others are looked for. It is never found, and like
# every device that is not known counts as an A100: 312 instead of 362 TFLOP/s, with a warning that its
# peak is undefined. The MFU in the log is 16% too high. (A CPU counts as an A100 as well.)
#
# Expected output:
#   NVIDIA A100-SXM4-80GB: 312 TFLOP/s
#   NVIDIA L40S: 312 TFLOP/s, "Peak flops undefined"
#   nvidia l40s: 362 TFLOP/s
#   as expected
#
# Exits with 0 while torchtitan behaves so, with 1 once it does not.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/pip" install -q --no-deps torchtitan==0.3.0 # what is called needs nothing else

cat >"$folder/try.py" <<'PY'
import logging

import torchtitan.tools.utils as utils

warned = []
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: warned.append(record.getMessage())
utils.logger.addHandler(handler)

found, unknown = {}, {}
for name in ("NVIDIA A100-SXM4-80GB", "NVIDIA L40S", "nvidia l40s"):
    warned.clear()
    found[name] = round(utils.get_peak_flops(name) / 1e12)
    unknown[name] = any("Peak flops undefined" in text for text in warned)
    print(f"{name}: {found[name]} TFLOP/s" + ', "Peak flops undefined"' * unknown[name])
if (list(found.values()), list(unknown.values())) != ([312, 312, 362], [False, True, False]):
    raise SystemExit("torchtitan behaves differently now")
print("as expected")
PY

cd "$folder"
# Without `lspci`, as it would take the name of an H100 of this machine.
PATH="$folder/empty" "$folder/venv/bin/python" try.py
