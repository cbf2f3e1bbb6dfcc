"""Reading one segment, also while it is being written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fasttrack.journal.entries import Console, Finish, Header, Metadata, Unknown, encode
from fasttrack.journal.reader import (
    SegmentReader,
    count_rows,
    last_written_s,
    read_finish,
    read_header,
    read_metadata,
    read_segment,
)
from fasttrack.journal.rows import Row, encode_row
from fasttrack.journal.run_directory import segment_name
from fasttrack.journal.writer import SegmentWriter

HEADER = Header(run_id="ab12", time_s=1.0)
FINISH = Finish(exit_code=0, time_s=2.0, deadline_s=9.0)
METADATA = Metadata({"git": {"commit": "a1b2"}}, 1.5)
DAMAGED = [
    b"\x00\x00\n",
    b"\n",
    b"[]\n",
    b"{}\n",
    b'{"kind":"row","values":{"a":"Infinity","b":"c"}}\n',
    b'{"kind":"row","seq":0,"step":"7","time":1.0,"values":{"a":1}}\n',
    b'{"kind":"finish"}\n',
]


def row(seq: int) -> bytes:
    """Return the line of a row."""
    return encode_row(seq, 10 * seq, 1.5, {"loss": 0.5 + seq})


def seqs(entries: Sequence[object]) -> list[int | None]:
    """Return the rows' numbers, None for what is no row."""
    return [entry.seq if isinstance(entry, Row) else None for entry in entries]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a segment may be."""
    return tmp_path / segment_name(1)


# --- SegmentReader --------------------------------------------------------------------------------


def test_reader_follows_a_growing_file(path: Path) -> None:
    """Each entry is returned once, as soon as its line is whole."""
    writer = SegmentWriter(path.parent, HEADER)
    reader = SegmentReader(path)
    seen = [reader.read(), reader.read()]
    writer.append([row(0), row(1)])
    seen += [reader.read(), reader.read()]
    writer.append([row(2)])
    seen += [reader.read()]
    reader.close()
    writer.close()

    assert [seqs(batch) for batch in seen] == [[None], [], [0, 1], [], [2]]
    assert reader.size_bytes == path.stat().st_size


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
    assert (seqs(after), seqs(rest)) == ([0], [1])
    assert reader.bad_lines == 0


def test_bad_line_is_skipped_and_counted(path: Path) -> None:
    """One damaged line does not cost the lines around it."""
    path.write_bytes(row(0) + b"".join(DAMAGED) + row(1))
    reader = SegmentReader(path)

    entries = reader.read()

    reader.close()
    assert seqs(entries) == [0, 1]
    assert reader.bad_lines == len(DAMAGED)


def test_line_of_an_unknown_kind_is_no_damage(path: Path) -> None:
    """A newer version wrote it; it is handed on, and means nothing."""
    path.write_bytes(row(0) + b'{"kind":"summary","values":{}}\n' + row(1))
    reader = SegmentReader(path)

    entries = reader.read()

    reader.close()
    assert entries[1] == Unknown("summary")
    assert reader.bad_lines == 0


def test_header_that_is_not_the_first_line_is_an_entry_like_others(path: Path) -> None:
    """Two writers of one file, by mistake: what each wrote is read."""
    path.write_bytes(row(0) + encode(HEADER) + row(1))

    assert [type(entry) for entry in read_segment(path)] == [Row, Header, Row]


def test_chunk_of_nothing_but_bad_lines_is_not_taken_for_the_end(path: Path) -> None:
    """An empty answer means the end of the file, so the reader reads on over damage."""
    path.write_bytes(b"\x00" * 300_000 + b"\n" + row(0))
    reader = SegmentReader(path)

    entries = reader.read()

    reader.close()
    assert seqs(entries) == [0]
    assert reader.bad_lines == 1


def test_line_of_many_chunks_is_read_whole(path: Path) -> None:
    """A program may print megabytes without a newline."""
    text = "x" * 3_000_000
    path.write_bytes(row(0) + encode(Console("stdout", text, 1.0)) + row(1))

    assert read_segment(path)[1] == Console("stdout", text, 1.0)
    assert seqs(read_segment(path)) == [0, None, 1]


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
    assert [seq for batch in batches for seq in seqs(batch)] == list(range(count))


def test_missing_segment_is_an_os_error(path: Path) -> None:
    """The reader is told of a file that is there."""
    with pytest.raises(OSError, match=path.name):
        SegmentReader(path)


def test_torn_tail_is_left_out_of_a_segment_read_whole(path: Path) -> None:
    """A killed trainer leaves half a line."""
    path.write_bytes(row(0) + row(1)[:-4])

    assert seqs(read_segment(path)) == [0]


# --- header, metadata and finish ------------------------------------------------------------------


def test_header_is_the_first_line(path: Path) -> None:
    """However much follows it."""
    path.write_bytes(encode(HEADER) + row(0))

    assert read_header(path) == HEADER


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"kind":"header","run_',
        b"\x00\x00\x00\n",
        row(0) + encode(HEADER),
        b'{"kind":"summary"}\n',
    ],
    ids=["empty", "torn", "damaged", "a row first", "an unknown kind first"],
)
def test_segment_that_does_not_begin_with_a_header_has_none(path: Path, content: bytes) -> None:
    """A trainer that died while it made its segment delivered nothing."""
    path.write_bytes(content)

    assert read_header(path) is None


def test_metadata_is_found_among_the_first_lines(path: Path) -> None:
    """It is written by a thread of its own, so rows may come before it."""
    path.write_bytes(encode(HEADER) + row(0) + encode(METADATA) + row(1))

    assert read_metadata(path) == METADATA


@pytest.mark.parametrize("content", [b"", encode(HEADER) + row(0), encode(METADATA)[:-1]])
def test_metadata_may_not_be_there_yet(path: Path, content: bytes) -> None:
    """Git may take seconds to answer."""
    path.write_bytes(content)

    assert read_metadata(path) is None


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
        b'{"kind":"finish","exit_code":"0"}\n',
    ],
    ids=["empty", "row", "torn finish", "torn tail", "row after", "damaged line", "damaged finish"],
)
def test_segment_that_does_not_end_with_a_finish_has_none(path: Path, content: bytes) -> None:
    """A torn finish does not count: the trainer did not leave in order."""
    path.write_bytes(content)

    assert read_finish(path) is None


def test_damaged_last_row_is_no_finish(path: Path) -> None:
    """The courier asks this every tenth of a second; damage must not end it."""
    path.write_bytes(b'{"kind":"row","values":{"a":"NaN","b":"text"}}\n')

    assert read_finish(path) is None


# --- the last line's time, and counting -----------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "time_s"),
    [
        (b"", 0.0),
        (b"\x00\n", 0.0),
        (encode(HEADER), 1.0),
        (encode(HEADER) + row(0), 1.5),
        (row(0) * 5000 + encode(FINISH), 2.0),
        (row(0) + encode(FINISH)[:-5], 1.5),
        (row(0) + b"".join(DAMAGED), 1.5),
        (row(0) + b'{"kind":"summary"}\n{"kind":"finish","exit_code":0}\n', 1.5),
        (row(0) + b'{"kind":"console","stream":"a","text":"b","time":"yesterday"}\n', 1.5),
    ],
    ids=[
        *("empty", "damaged", "header", "row", "long", "torn", "damage at the end"),
        *("lines without a time", "a time that is no number"),
    ],
)
def test_time_of_the_last_line_that_has_one(path: Path, content: bytes, time_s: float) -> None:
    """A copied file's own times tell nothing; a damaged line must not hide the rows before it."""
    path.write_bytes(content)

    assert last_written_s(path) == time_s


@pytest.mark.parametrize("count", [0, 1, 60_000])
def test_rows_are_counted_across_pieces_of_the_file(path: Path, count: int) -> None:
    """Without parsing: a status must not take as long as an export."""
    lines = [encode(HEADER), *map(row, range(count)), encode(FINISH)]
    path.write_bytes(b"".join(lines) + row(count)[:-1])

    assert count_rows(path) == count


def test_rows_of_a_segment_without_a_header_are_counted(path: Path) -> None:
    """The very first line of the file counts, too."""
    path.write_bytes(row(0) + row(1))

    assert count_rows(path) == 2


def test_damaged_rows_are_counted_and_rows_that_were_printed_are_not(path: Path) -> None:
    """The count is an upper bound, which whoever needs the truth reads the lines for."""
    printed = encode(Console("stdout", '\n{"kind":"row"', 1.0))
    path.write_bytes(encode(HEADER) + row(0) + b'{"kind":"row","damaged\n' + printed)

    assert count_rows(path) == 2
