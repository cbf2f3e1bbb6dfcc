#!/usr/bin/env bash
# pyarrow 26.0.1: `pyarrow.compute.binary_slice` with its `stop` left out, which its documentation lets
# mean "to the end", raises ArrowInvalid ("Negative buffer resize") for arrays of an even number of
# values of variable length, and works for those of an odd number. It looks as if the room for the
# result were reckoned as number of values times the greatest 64-bit integer, which overflows to a
# negative size or to a small one. With a `stop`, a negative one included, all lengths work.
#
# Expected output:
#   without a stop, of 1 to 12 values: ok, Negative buffer resize, ok, Negative buffer resize, ...
#   with a stop: ok for all
#   as expected
#
# Exits with 0 while pyarrow behaves so, with 1 once it does not.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pyarrow==26.0.1

cat >"$folder/try.py" <<'PY'
import pyarrow
import pyarrow.compute


def outcome(count, *stop):
    """Return what becomes of cutting the first byte off so many values."""
    try:
        found = pyarrow.compute.binary_slice(pyarrow.array([b"abcd"] * count), 1, *stop)
    except pyarrow.ArrowInvalid as error:
        return str(error).partition(":")[0]
    return "ok" if found.to_pylist() == [b"bcd"] * count else "wrong"


without = [outcome(count) for count in range(1, 13)]
with_stop = [outcome(count, 100) for count in range(1, 13)]
print("without a stop, of 1 to 12 values:", ", ".join(without[:4]) + ", ...")
print("with a stop:", "ok for all" if set(with_stop) == {"ok"} else with_stop)
if without != ["ok", "Negative buffer resize"] * 6 or set(with_stop) != {"ok"}:
    raise SystemExit("pyarrow behaves differently now")
print("as expected")
PY

cd "$folder"
venv/bin/python try.py
