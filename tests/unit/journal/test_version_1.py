"""Files of version 1, written by the old code (`tests/data/v1`), read line by line and bit by bit.

Delivering and resuming them is in `tests/system/test_format_v1.py`.
"""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from support.version_1 import SCENARIOS, copy_run

from fasttrack.artifacts.snapshot import changed_files
from fasttrack.journal.cursor import SegmentLedger, load_cursor
from fasttrack.journal.entries import Artifact, Entry, Header, Metadata, merge_headers
from fasttrack.journal.follower import Follower
from fasttrack.journal.reader import (
    count_rows,
    last_written_s,
    read_finish,
    read_header,
    read_metadata,
    read_segment,
)
from fasttrack.journal.rows import Row

NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
KEYS = {"time_s": "time", "deadline_s": "deadline"}
NEW: dict[str, dict[str, Any]] = {
    "header": {
        "backends": ["wandb"],
        "sweep_id": None,
        "hang_timeout_s": 60.0,
        "alerts": {},
    },
    "finish": {"last_step": None},
}


def as_json(entry: Entry) -> dict[str, Any]:
    """Return an entry's fields under the names that they have on disk, tuples as lists."""
    told: dict[str, Any] = {"kind": entry.kind}
    row = ("seq", "step", "time_s", "values")
    for name in row if isinstance(entry, Row) else [one.name for one in fields(entry)]:
        value = getattr(entry, name)
        told[KEYS.get(name, name)] = list(value) if isinstance(value, tuple) else value
    return told


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a segment as JSON says them; a row's numbers as they are meant."""
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    for line in lines:
        if line["kind"] == "row":
            line["values"] = {k: NUMBERS.get(str(v), v) for k, v in line["values"].items()}
    return lines


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_line_is_read_with_every_key_and_to_the_bit(name: str, tmp_path: Path) -> None:
    """No key that the old code wrote is lost, and only what is new has a default."""
    old = copy_run(name, tmp_path)

    with Follower.of_run(old.directory) as follower:
        read = [as_json(entry) for batch in follower.batches() for entry in batch.entries]

    written = [line for path in old.segments for line in whole_lines(path)]
    assert len(read) == len(written) > 10
    for entry, line in zip(read, written, strict=True):
        added = {key: entry.pop(key) for key in entry.keys() - line.keys()}
        assert added == NEW.get(line["kind"], {})
        assert repr({key: entry[key] for key in line}) == repr(line)  # NaN, -0.0 and int or float
    assert follower.bad_lines == 0


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_segment_says_of_itself_what_its_lines_say(name: str, tmp_path: Path) -> None:
    """Header, metadata, end, rows and last time, each read by itself."""
    for path in copy_run(name, tmp_path).segments:
        lines = whole_lines(path)
        kinds = [line["kind"] for line in lines]
        header, finish = read_header(path), read_finish(path)

        assert (header is not None) == (kinds[:1] == ["header"])
        torn = not path.read_bytes().endswith(b"\n")
        assert (finish is not None) == (kinds[-1:] == ["finish"] and not torn)
        assert count_rows(path) == kinds.count("row")
        assert len(read_segment(path)) == len(lines)
        assert last_written_s(path) == (lines[-1]["time"] if lines else 0.0)
        metadata = read_metadata(path)
        if metadata is not None:
            assert metadata.git["commit"] == "0123456789abcdef0123456789abcdef01234567"
        assert (metadata is not None) == ("metadata" in kinds)


def test_scenarios_hold_what_they_are_there_for(tmp_path: Path) -> None:
    """Data that was made anew without its oddities would prove nothing."""
    runs = {name: copy_run(name, tmp_path) for name in SCENARIOS}
    read = {
        name: [entry for path in run.segments for entry in read_segment(path)]
        for name, run in runs.items()
    }

    assert set(SCENARIOS) >= {
        *("offline_proven", "offline_killed", "online_resumed", "online_interrupted"),
        *("artifacts_pending", "odd_values", "torn_header"),
    }
    for name in ("offline_killed", "torn_header"):
        assert any(not path.read_bytes().endswith(b"\n") for path in runs[name].segments)
    assert [read_header(path) is None for path in runs["torn_header"].segments] == [
        False,
        True,
        False,
    ]
    odd = [entry for entry in read["odd_values"] if isinstance(entry, Row)]
    values = [value for row in odd for value in row.values.values()]
    assert sum(map(math.isnan, values)) == 2
    assert {math.inf, -math.inf, 2**63 - 1, -(2**63), 1e-320} <= set(values)
    assert [row.step for row in odd] != sorted(row.step for row in odd)
    assert {"null", "NaN", "потеря", "🙂", "attempt"} <= {
        name for row in odd for name in row.values
    }
    assert {entry.kind for entry in read["odd_values"]} >= {"console", "metadata", "finish"}
    assert [a.type for a in read["artifacts_pending"] if isinstance(a, Artifact)] == [
        "config",
        "model",
    ]
    attempts = [entry for entry in read["online_resumed"] if isinstance(entry, Header)]
    assert [(h.attempt, h.resumed, h.tags is None) for h in attempts] == [
        (1, False, False),
        (2, True, True),
    ]
    assert sum(isinstance(entry, Metadata) for entry in read["online_resumed"]) == 2


def test_headers_of_old_attempts_complete_each_other(tmp_path: Path) -> None:
    """The resumed attempt named neither name nor tags."""
    old = copy_run("online_resumed", tmp_path)
    headers = [header for path in old.segments if (header := read_header(path)) is not None]

    merged = merge_headers(headers)

    assert merged is not None
    assert (merged.version, merged.attempt, merged.backends) == (1, 2, ("wandb",))
    assert (merged.name, merged.tags) == (headers[0].name, headers[0].tags)
    assert (merged.group, merged.entity) == ("baseline", "tester")


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_cursor_is_migrated_field_by_field(name: str, tmp_path: Path) -> None:
    """Nothing that the old code knew is forgotten, nothing is made up."""
    old = copy_run(name, tmp_path)
    path = old.directory / "cursor.json"

    ledgers = load_cursor(path).backends

    if not path.exists():
        assert name == "odd_values"
        assert ledgers == {}
        return
    told = json.loads(path.read_bytes())
    assert list(ledgers) == ["wandb"]
    ledger = ledgers["wandb"]
    assert (ledger.url, ledger.directory) == (told["url"], None)
    assert ledger.notes == {
        "open_directory": told["open_directory"],
        "offline_directories": told["offline_directories"],
        "segments": {
            segment: {"base_step": state["base_step"], "last_step": state["last_step"]}
            for segment, state in told["segments"].items()
        },
    }
    assert ledger.segments == {
        segment: SegmentLedger(
            rows=state["rows"],
            arrived=state["arrived"],
            size_bytes=state["size_bytes"],
            proof=state["online_proof"],
            offline_proof=state["offline_proof"],
            artifacts=state["artifacts"],
        )
        for segment, state in told["segments"].items()
    }


def test_proofs_are_for_the_sizes_that_the_files_have(tmp_path: Path) -> None:
    """A checkout that converted line ends, say, would make every proof void."""
    sizes = []
    for name in SCENARIOS:
        old = copy_run(name, tmp_path)
        ledger = load_cursor(old.directory / "cursor.json").ledger("wandb")
        for segment, state in ledger.segments.items():
            if state.proof or state.offline_proof:
                sizes.append((state.size_bytes, (old.directory / segment).stat().st_size))

    assert len(sizes) >= 5
    assert all(then == now for then, now in sizes)


def test_staged_files_of_the_old_version_are_unchanged_after_a_checkout(tmp_path: Path) -> None:
    """Their times and inodes are new; the manifest that the old code wrote allows for it."""
    old = copy_run("artifacts_pending", tmp_path)
    entries = [entry for path in old.segments for entry in read_segment(path)]
    staged = [old.directory / entry.directory for entry in entries if isinstance(entry, Artifact)]

    assert len(staged) == 2
    assert [changed_files(directory) for directory in staged] == [[], []]
