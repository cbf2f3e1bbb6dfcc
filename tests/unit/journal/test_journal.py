"""The journal: its lines, the segments on disk, and reading them while they are written."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fasttrack.journal import writer as writer_module
from fasttrack.journal.entries import decode, encode, encode_row
from fasttrack.journal.reader import SegmentReader, read_finish, read_header, read_segment
from fasttrack.journal.run_directory import run_directory, segment_name, segments
from fasttrack.journal.writer import SegmentWriter

FINISH = {"kind": "finish", "exit_code": 0, "preempting": False, "time": 2.0, "deadline": 9.0}


def row(seq: int) -> bytes:
    """Return the line of a row."""
    return encode_row(seq, 10 * seq, 1.5, {"loss": 0.5 + seq})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a segment may be."""
    return tmp_path / segment_name(1)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """Return what decides how many bytes `os.write` still takes (None: all)."""
    room: dict[str, int | None] = {"bytes": None}
    really_write = os.write

    def write(fd: int, data: bytes) -> int:
        left = room["bytes"]
        if left is None:
            return really_write(fd, data)
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = really_write(fd, data[:left])
        room["bytes"] = left - written
        return written

    monkeypatch.setattr(writer_module.os, "write", write)
    return room


# --- lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.1, -0.0, 5, 2**63 - 1, -(2**63), 1e-320, 1.7e308])
def test_row_comes_back_as_it_was_written(value: float) -> None:
    """A number is the same, type included, after the journal."""
    entry = decode(encode_row(3, 40, 1.25, {"a": value}))

    assert entry == {"kind": "row", "seq": 3, "step": 40, "time": 1.25, "values": {"a": value}}
    assert type(entry["values"]["a"]) is type(value)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinity_comes_back_as_a_float(value: float) -> None:
    """JSON has no infinity; the journal keeps it."""
    assert decode(encode_row(0, 0, 0.0, {"a": value, "b": 1}))["values"] == {"a": value, "b": 1}


def test_nan_comes_back_as_a_float() -> None:
    """JSON has no NaN; the journal keeps it."""
    values = decode(encode_row(0, 0, 0.0, {"a": math.nan, "b": 1}))["values"]

    assert math.isnan(values["a"])
    assert values["b"] == 1


def test_non_finite_values_are_written_as_the_strings_that_json_tools_know() -> None:
    """The spelling on disk is the documented one."""
    line = encode_row(0, 0, 0.0, {"a": math.nan, "b": math.inf, "c": -math.inf})

    assert json.loads(line)["values"] == {"a": "NaN", "b": "Infinity", "c": "-Infinity"}


@pytest.mark.parametrize("name", ["null", "NaN", "Infinity", "-Infinity", 'a"NaN"', "values"])
@pytest.mark.parametrize("value", [1.5, math.inf])
def test_metric_names_that_look_like_values_are_harmless(name: str, value: float) -> None:
    """A name may be any of the words that the format itself uses."""
    assert decode(encode_row(0, 0, 0.0, {name: value}))["values"] == {name: value}


@pytest.mark.parametrize("name", ["потеря", "loss/損失", "🙂", 'a"b\\c', "a\nb\tc", "\x00", ""])
def test_any_unicode_name_stays_on_one_line(name: str) -> None:
    """Newlines and quotes in a name cannot break the line format."""
    line = encode_row(0, 0, 0.0, {name: 1})

    assert line.count(b"\n") == 1
    assert decode(line)["values"] == {name: 1}


@pytest.mark.parametrize(
    "line",
    [
        encode_row(1, 2, 3.0, {"a": math.nan, "b": -math.inf, "null": 1, "ü\n": 2}),
        encode({"kind": "console", "stream": "stdout", "text": "é\r\x1b[0m\n", "time": 1.0}),
        encode(FINISH),
    ],
)
def test_every_line_parses_with_the_standard_library(line: bytes) -> None:
    """Nobody needs us, or orjson, to read a journal; non-standard JSON constants are not used."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    entry = json.loads(line, parse_constant=refuse)

    assert entry["kind"] == decode(line)["kind"]
    assert line.endswith(b"\n")


@pytest.mark.parametrize("values", [{1: 2.0}, {"a": 2**70}, {"a": object()}, {"\ud800": 1}])
def test_unrepresentable_row_is_a_type_error(values: Any) -> None:
    """What JSON cannot hold is refused, not written somehow."""
    with pytest.raises(TypeError):
        encode_row(0, 0, 0.0, values)


@pytest.mark.parametrize("line", [b"", b"{", b"[1]", b"1", b'"a"', b"null", b'{"a": NaN}', b"\xff"])
def test_line_that_is_no_json_object_is_a_value_error(line: bytes) -> None:
    """One exception tells of every kind of damage."""
    with pytest.raises(ValueError, match=r"."):
        decode(line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"kind":"row","values":{"a":"NaN","b":"text"}}',
        b'{"kind":"row","text":"NaN"}',
        b'{"kind":"row","values":["NaN"]}',
    ],
)
def test_row_with_damaged_values_is_a_value_error(line: bytes) -> None:
    """What decode() raises is what its readers catch."""
    with pytest.raises(ValueError, match=r"."):
        decode(line)


def test_only_rows_have_their_strings_turned_into_numbers() -> None:
    """A console line that says "NaN" is text."""
    entry = {"kind": "console", "text": "NaN", "values": {"a": "NaN"}}

    assert decode(encode(entry)) == entry


# --- directories and names ------------------------------------------------------------------------


def test_run_directory_is_where_the_documents_say() -> None:
    """`{base}/wandb/fasttrack/<run id>`."""
    assert run_directory(Path("/base"), "ab12") == Path("/base/wandb/fasttrack/ab12")


def test_segments_are_sorted_by_number_even_past_9999(tmp_path: Path) -> None:
    """ "10000" sorts before "9999" as text, not here."""
    for attempt in (10000, 2, 9999, 1, 10):
        (tmp_path / segment_name(attempt)).touch()

    found = segments(tmp_path)

    assert [path.name for path in found] == [segment_name(n) for n in (1, 2, 10, 9999, 10000)]


def test_other_files_of_the_run_are_no_segments(tmp_path: Path) -> None:
    """The cursor and logs lie beside the segments."""
    for name in ("cursor.json", "delivery.log", "segment-0001.jsonl.gz", "courier.lock"):
        (tmp_path / name).touch()

    assert segments(tmp_path) == []


def test_directory_that_does_not_exist_has_no_segments(tmp_path: Path) -> None:
    """Asking before the first attempt is no error."""
    assert segments(tmp_path / "nothing") == []


@pytest.mark.parametrize("name", ["segment-0001 (copy).jsonl", "segment-old.jsonl"])
def test_stray_file_with_a_similar_name_is_no_segment(tmp_path: Path, name: str) -> None:
    """A person's copy of a segment must not keep the run from being resumed or delivered."""
    (tmp_path / segment_name(1)).touch()
    (tmp_path / name).touch()

    assert segments(tmp_path) == [tmp_path / segment_name(1)]


# --- SegmentWriter --------------------------------------------------------------------------------


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    """A journal holds configuration and console text: 0600 in 0700, whatever the umask."""
    old = os.umask(0)
    try:
        writer = SegmentWriter(tmp_path / "wandb" / "fasttrack" / "ab12", {})
    finally:
        os.umask(old)
    writer.close()

    assert stat.S_IMODE(writer.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(writer.path.parent.stat().st_mode) == 0o700


def test_header_is_the_first_line_and_names_the_attempt(tmp_path: Path) -> None:
    """The header says what the segment is before any row."""
    writer = SegmentWriter(tmp_path, {"run_id": "ab12"})
    writer.append([row(0)])
    writer.close()

    assert read_header(writer.path) == {"kind": "header", "attempt": 1, "run_id": "ab12"}
    assert [entry["kind"] for entry in read_segment(writer.path)] == ["header", "row"]


def test_attempts_are_numbered_on(tmp_path: Path) -> None:
    """Each attempt of a run has a segment of its own; none is written twice."""
    writers = [SegmentWriter(tmp_path, {}) for _ in range(3)]
    for writer in writers:
        writer.close()

    assert [read_header(writer.path)["attempt"] for writer in writers] == [1, 2, 3]
    assert segments(tmp_path) == [writer.path for writer in writers]


def test_next_attempt_follows_the_highest_one_over_gaps(tmp_path: Path) -> None:
    """A deleted segment's number is not used again, and 9999 is no limit."""
    (tmp_path / segment_name(9999)).touch()

    writer = SegmentWriter(tmp_path, {})
    writer.close()

    assert writer.path.name == "segment-10000.jsonl"


def test_second_of_two_writers_in_a_race_takes_the_next_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes that resume one run at the same instant must not share a segment."""
    winner = SegmentWriter(tmp_path, {"who": "winner"})
    monkeypatch.setattr(writer_module, "segments", lambda run_dir: [])  # it looked a moment before

    loser = SegmentWriter(tmp_path, {"who": "loser"})
    winner.close()
    loser.close()

    assert read_header(winner.path) == {"kind": "header", "attempt": 1, "who": "winner"}
    assert read_header(loser.path) == {"kind": "header", "attempt": 2, "who": "loser"}


def test_directory_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    """The tracker turns it into a DirectoryError."""
    (tmp_path / "wandb").write_text("a file in the way")

    with pytest.raises(OSError, match="wandb"):
        SegmentWriter(tmp_path / "wandb" / "fasttrack" / "ab12", {})


def test_full_disk_tears_no_line_and_keeps_the_order(
    path: Path, disk: dict[str, int | None]
) -> None:
    """What was written in part is cut off, held, and written first once there is room."""
    writer = SegmentWriter(path.parent, {})
    disk["bytes"] = len(row(0)) + 5
    error = writer.append([row(0), row(1)])
    held, torn = writer.held_lines, path.read_bytes().endswith(b"}\n")
    disk["bytes"] = None
    recovered = writer.append([row(2)])
    writer.close()

    assert error is not None
    assert error.errno == errno.ENOSPC
    assert (held, torn) == (2, True)
    assert recovered is None
    assert [entry.get("seq") for entry in read_segment(path)] == [None, 0, 1, 2]


def test_held_lines_have_a_limit_in_memory_and_the_newest_go_first(
    path: Path, disk: dict[str, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that stays full cannot fill the memory; what is dropped is counted."""
    monkeypatch.setattr(writer_module, "_HELD_LIMIT_BYTES", len(row(0) + row(1)))
    writer = SegmentWriter(path.parent, {})
    disk["bytes"] = 0
    writer.append([row(0), row(1), row(2)])

    dropped = writer.trim_held()

    disk["bytes"] = None
    writer.append([])
    writer.close()
    assert dropped == 1
    assert writer.held_lines == 0
    assert [entry.get("seq") for entry in read_segment(path)] == [None, 0, 1]


def test_file_system_without_fsync_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are in the page cache; closing goes on."""

    def fsync(fd: int) -> None:
        raise OSError(errno.EINVAL, "fsync")

    writer = SegmentWriter(tmp_path, {})
    monkeypatch.setattr(writer_module.os, "fsync", fsync)

    writer.close()

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writer._fd)


# --- SegmentReader --------------------------------------------------------------------------------


def test_reader_follows_a_growing_file(path: Path) -> None:
    """Each entry is returned once, as soon as its line is whole."""
    writer = SegmentWriter(path.parent, {})
    reader = SegmentReader(path)
    seen = [reader.read(), reader.read()]
    writer.append([row(0), row(1)])
    seen += [reader.read(), reader.read()]
    writer.append([row(2)])
    seen += [reader.read()]
    reader.close()
    writer.close()

    seqs = [[entry.get("seq") for entry in batch] for batch in seen]
    assert seqs == [[None], [], [0, 1], [], [2]]


def test_torn_last_line_is_invisible_until_it_is_completed(path: Path) -> None:
    """The courier may look at the very moment of a write."""
    line = row(0)
    with path.open("ab", buffering=0) as file:
        reader = SegmentReader(path)
        file.write(line[:7])
        before = reader.read()
        file.write(line[7:-1])
        without_newline = reader.read()
        file.write(line[-1:] + row(1)[:3])
        after = reader.read()
        file.write(row(1)[3:])
        rest = reader.read()
        reader.close()

    assert (before, without_newline) == ([], [])
    assert [entry["seq"] for entry in after] == [0]
    assert [entry["seq"] for entry in rest] == [1]
    assert reader.bad_lines == 0


def test_bad_line_is_skipped_and_counted(path: Path) -> None:
    """One damaged line does not cost the lines around it."""
    bad = [b"\x00\x00\n", b"\n", b"[]\n", b'{"kind":"row","values":{"a":"Infinity","b":"c"}}\n']
    path.write_bytes(row(0) + b"".join(bad) + row(1))
    reader = SegmentReader(path)

    entries = reader.read()

    reader.close()
    assert [entry["seq"] for entry in entries] == [0, 1]
    assert reader.bad_lines == len(bad)


def test_chunk_of_nothing_but_bad_lines_is_not_taken_for_the_end(path: Path) -> None:
    """An empty answer means the end of the file, so the reader reads on over damage."""
    path.write_bytes(b"\x00" * 300_000 + b"\n" + row(0))
    reader = SegmentReader(path)

    entries = reader.read()

    reader.close()
    assert [entry["seq"] for entry in entries] == [0]
    assert reader.bad_lines == 1


def test_large_segment_comes_in_bounded_pieces_without_a_loss(path: Path) -> None:
    """A week of rows is not loaded into memory at once; lines across pieces stay whole."""
    count = 12_000
    path.write_bytes(b"".join(row(seq) for seq in range(count)))
    reader = SegmentReader(path)

    batches = []
    while batch := reader.read():
        batches.append(batch)

    reader.close()
    assert len(batches) > 2
    assert [entry["seq"] for batch in batches for entry in batch] == list(range(count))


def test_missing_segment_is_an_os_error(path: Path) -> None:
    """The reader is told of a file that is there."""
    with pytest.raises(OSError, match=path.name):
        SegmentReader(path)


def test_torn_tail_is_left_out_of_a_segment_read_whole(path: Path) -> None:
    """A killed trainer leaves half a line."""
    path.write_bytes(row(0) + row(1)[:-4])

    assert [entry["seq"] for entry in read_segment(path)] == [0]


# --- header and finish ----------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b'{"kind":"header","run_', b"\x00\x00\x00\n"])
def test_torn_header_is_empty(path: Path, content: bytes) -> None:
    """A trainer that died while it made its segment delivered nothing."""
    path.write_bytes(content)

    assert read_header(path) == {}


@pytest.mark.parametrize("before", [lambda: b"", lambda: row(0), lambda: row(0) * 5000])
def test_finish_is_found_at_the_end(path: Path, before: Callable[[], bytes]) -> None:
    """However long the segment, only its tail is read."""
    path.write_bytes(before() + encode(FINISH))

    assert read_finish(path) == FINISH


@pytest.mark.parametrize(
    "content",
    [
        b"",
        row(0),
        encode(FINISH)[:-1],
        encode(FINISH) + row(0)[:5],
        encode(FINISH) + row(0),
        row(0) + b"\x00\n",
    ],
    ids=["empty", "row", "torn finish", "torn tail", "row after", "damaged line"],
)
def test_segment_that_does_not_end_with_a_finish_has_none(path: Path, content: bytes) -> None:
    """A torn finish does not count: the trainer did not leave in order."""
    path.write_bytes(content)

    assert read_finish(path) is None


def test_damaged_last_row_is_no_finish(path: Path) -> None:
    """The courier asks this every tenth of a second; damage must not end it."""
    path.write_bytes(b'{"kind":"row","values":{"a":"NaN","b":"text"}}\n')

    assert read_finish(path) is None
