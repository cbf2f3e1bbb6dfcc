"""The journal's lines: one JSON object each, readable with jq, pandas or DuckDB as they stand.

A run's directory `{WANDB_DIR or .}/wandb/fasttrack/<run_id>/` holds one segment per attempt of the
run (`segment-0001.jsonl`, ...), the courier's `cursor.json` and its log, `delivery.log`.

A segment's first line is its header. The other kinds: `row` (seq, step, time, values), `console`
(stream, text, time), `metadata` and `config` (values, time), `artifact` (number, type, name,
aliases, directory, files, size_bytes, step, time), `finish` (exit_code, preempting, time,
deadline). JSON knows no NaN or infinity; a row holds them as the strings "NaN", "Infinity" and
"-Infinity". A torn last line, left by a process that was killed while it wrote, is expected and
skipped; every other line parses.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import orjson

FORMAT_VERSION = 1
_SEGMENT = re.compile(r"segment-\d+\.jsonl")
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def run_directory(base: Path, run_id: str) -> Path:
    """Return the directory of run `run_id` under `base`, the parent of `wandb/`."""
    return base / "wandb" / "fasttrack" / run_id


def segment_name(number: int) -> str:
    """Return the file name of a run's attempt `number`, counted from 1."""
    return f"segment-{number:04d}.jsonl"


def segments(run_dir: Path) -> list[Path]:
    """Return the segments in `run_dir`, oldest attempt first."""
    found = [path for path in run_dir.glob("segment-*.jsonl") if _SEGMENT.fullmatch(path.name)]
    return sorted(found, key=attempt)


def attempt(segment: Path) -> int:
    """Return the number of the attempt that wrote `segment`."""
    return int(segment.stem.split("-")[1])


def encode(entry: dict[str, Any]) -> bytes:
    """Return `entry` as one line, newline included.

    Raises:
        TypeError: something in it is not representable in JSON, or a key is not a string
            (`orjson.JSONEncodeError`).
    """
    return orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)


def encode_row(seq: int, step: int, time_s: float, values: dict[str, float | int]) -> bytes:
    """Return the line of one row.

    Args:
        seq: the row's number in its segment, from 0.
        step: the user's training step.
        time_s: unix time at which it was logged, in seconds.
        values: metric name to number; NaN and infinities are kept.

    Raises:
        TypeError: a key is not a string, or an integer exceeds 64 bits.
    """
    row = {"kind": "row", "seq": seq, "step": step, "time": time_s, "values": values}
    line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    if (
        line.find(b"null") >= 0
    ):  # half the cost of `in`. orjson writes a non-finite float as null; a name may hold it too
        row["values"] = {name: _spell(value) for name, value in values.items()}
        line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    return line


def count_rows(lines: list[bytes]) -> int:
    """Return how many of `lines` are rows."""
    return sum(line.startswith(b'{"kind":"row"') for line in lines)


def _spell(value: float | int) -> float | int | str:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def decode(line: bytes) -> dict[str, Any]:
    """Return the entry of one line; a row's spelled-out non-finite values become floats again.

    Raises:
        ValueError: the line is not one that this module wrote.
    """
    entry = orjson.loads(line)
    if not isinstance(entry, dict):
        raise ValueError("a journal line must be a JSON object")
    if entry.get("kind") == "row" and (b'"NaN"' in line or b'Infinity"' in line):
        try:
            values = entry["values"]
            for name, value in values.items():
                if isinstance(value, str):
                    values[name] = _NON_FINITE[value]
        except (KeyError, AttributeError) as error:
            raise ValueError("a row's values must be numbers") from error
    return entry
