#!/usr/bin/env bash
# DuckDB 2.0.1: `read_json_auto` decides the type of a column by the first 20,480 rows. Where these hold
# whole numbers (a metric that begins at 0, say), fractions that come later are rounded to whole
# numbers, without error or warning: 0.75 is read as 1, and 0.25 as 0. Naming the type, or
# `sample_size = -1`, reads them as they are.
#
# Expected output:
#   30,000 rows of 0, then 0.75 and 0.25
#   read_json_auto: 1 and 0 (BIGINT)
#   sample_size = -1: 0.75 and 0.25 (DOUBLE)
#   columns = {v: DOUBLE}: 0.75 and 0.25 (DOUBLE)
#   as expected
#
# Exits with 0 while DuckDB behaves so, with 1 once it does not.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q duckdb==2.0.1

cat >"$folder/try.py" <<'PY'
import json

import duckdb

with open("rows.jsonl", "w") as file:
    for value in [0] * 30_000 + [0.75, 0.25]:
        file.write(json.dumps({"v": value}) + "\n")


def last(reader):
    """Return the last two values and their type."""
    rows = duckdb.sql(f"SELECT v, typeof(v) FROM {reader}").fetchall()[-2:]
    return f"{rows[0][0]} and {rows[1][0]} ({rows[0][1]})"


auto = last("read_json_auto('rows.jsonl')")
whole = last("read_json_auto('rows.jsonl', sample_size = -1)")
named = last("read_json('rows.jsonl', columns = {'v': 'DOUBLE'})")
print("30,000 rows of 0, then 0.75 and 0.25")
print("read_json_auto:", auto)
print("sample_size = -1:", whole)
print("columns = {v: DOUBLE}:", named)
if (auto, whole, named) != ("1 and 0 (BIGINT)", *["0.75 and 0.25 (DOUBLE)"] * 2):
    raise SystemExit("DuckDB behaves differently now")
print("as expected")
PY

cd "$folder"
venv/bin/python try.py
