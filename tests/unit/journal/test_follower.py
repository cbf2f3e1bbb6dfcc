"""Following a run's segments, one after the other, while they are being written."""

from __future__ import annotations

from pathlib import Path

import pytest

from fasttrack.journal.entries import Finish, Header, encode
from fasttrack.journal.follower import Batch, Follower
from fasttrack.journal.rows import Row, encode_row
from fasttrack.journal.run_directory import segment_name

HEADER = Header(run_id="ab12")
FINISH = encode(Finish(exit_code=0))


def row(seq: int) -> bytes:
    """Return the line of a row."""
    return encode_row(seq, 10 * seq, 1.5, {"loss": 0.5 + seq})


def write(directory: Path, number: int, *lines: bytes) -> Path:
    """Append lines to a segment."""
    path = directory / segment_name(number)
    with path.open("ab") as file:
        file.write(b"".join(lines))
    return path


def seqs(batch: Batch | None) -> tuple[str, list[int]] | None:
    """Return a batch's segment and its rows' numbers."""
    if batch is None:
        return None
    return batch.segment.name, [entry.seq for entry in batch.entries if isinstance(entry, Row)]


def test_all_segments_are_read_in_the_order_of_their_attempts(tmp_path: Path) -> None:
    """Each batch says which attempt it is of."""
    for number in (10000, 2, 9999):
        write(tmp_path, number, row(number))

    with Follower.of_run(tmp_path) as follower:
        found = [seqs(batch) for batch in follower.batches()]

    assert found == [(segment_name(number), [number]) for number in (2, 9999, 10000)]


def test_the_last_segment_is_followed_as_it_grows(tmp_path: Path) -> None:
    """None means nothing yet, not the end."""
    write(tmp_path, 1, row(0))
    with Follower.of_run(tmp_path) as follower:
        seen = [seqs(follower.read()), seqs(follower.read())]
        write(tmp_path, 1, row(1), row(2)[:9])
        seen += [seqs(follower.read()), seqs(follower.read())]
        write(tmp_path, 1, row(2)[9:])
        seen += [seqs(follower.read()), seqs(follower.read())]

    name = segment_name(1)
    assert seen == [(name, [0]), None, (name, [1]), None, (name, [2]), None]


def test_a_segment_that_is_begun_meanwhile_is_found(tmp_path: Path) -> None:
    """A run that is resumed while somebody follows it."""
    with Follower.of_run(tmp_path) as follower:
        nothing = follower.read()
        write(tmp_path, 1, row(0))
        first = seqs(follower.read())
        at_the_end = follower.read()
        write(tmp_path, 2, row(7))
        second = seqs(follower.read())

    assert (nothing, at_the_end) == (None, None)
    assert (first, second) == ((segment_name(1), [0]), (segment_name(2), [7]))


def test_rows_written_just_before_the_next_attempt_began_are_not_skipped(tmp_path: Path) -> None:
    """Looked for the next segment, then at this one for the last time: in that order."""
    write(tmp_path, 1, row(0))
    late = [lambda: write(tmp_path, 1, row(1)), lambda: write(tmp_path, 2, row(0))]

    def segments() -> list[Path]:
        found = sorted(tmp_path.glob("segment-*"))
        if len(found) == 1 and follower.sizes_bytes and late:
            late.pop(0)()  # what happens while we look at the directory
        return found

    with Follower(segments) as follower:
        found = [seqs(batch) for batch in follower.batches()]
        found += [seqs(batch) for batch in follower.batches()]

    first, second = segment_name(1), segment_name(2)
    assert found == [(first, [0]), (first, [1]), (second, [0])]


def test_a_finish_does_not_end_a_segment_for_its_follower(tmp_path: Path) -> None:
    """What a finish means is for the reader to say."""
    write(tmp_path, 1, row(0), FINISH, row(1))
    write(tmp_path, 2, row(2))

    with Follower.of_run(tmp_path) as follower:
        found = [seqs(batch) for batch in follower.batches()]

    assert found == [(segment_name(1), [0, 1]), (segment_name(2), [2])]


@pytest.mark.parametrize("content", [b"", b'{"kind":"header","run_', b"\x00\n"])
def test_a_segment_that_holds_nothing_is_passed_over(tmp_path: Path, content: bytes) -> None:
    """The disk was full, or the trainer killed, when its attempt began."""
    write(tmp_path, 1, row(0))
    write(tmp_path, 2, content)
    write(tmp_path, 3, row(1))

    with Follower.of_run(tmp_path) as follower:
        found = [seqs(batch) for batch in follower.batches()]

    assert found == [(segment_name(1), [0]), (segment_name(3), [1])]
    assert follower.bad_lines == content.count(b"\n")


def test_only_the_segments_that_were_given_are_followed(tmp_path: Path) -> None:
    """Those that are proven, or are somebody else's, stay closed."""
    paths = [write(tmp_path, number, row(number)) for number in (1, 2, 3)]

    with Follower.of_segments([paths[0], paths[2]]) as follower:
        found = [seqs(batch) for batch in follower.batches()]
        write(tmp_path, 4, row(4))
        later = follower.read()

    assert found == [(segment_name(1), [1]), (segment_name(3), [3])]
    assert later is None


def test_nothing_to_follow_is_nothing_to_read() -> None:
    """A run whose segments are all proven."""
    with Follower.of_segments([]) as follower:
        assert follower.read() is None
        assert follower.sizes_bytes == {}


def test_sizes_tell_how_much_was_read_of_each_torn_lines_included(tmp_path: Path) -> None:
    """A proof is for so many bytes: more of them, and it is none any more."""
    paths = [write(tmp_path, 1, row(0), row(1)[:9]), write(tmp_path, 2, encode(HEADER), row(0))]

    with Follower.of_run(tmp_path) as follower:
        list(follower.batches())
        before = dict(follower.sizes_bytes)
        write(tmp_path, 2, b"torn")
        follower.read()

    assert before == {paths[0]: len(row(0)) + 9, paths[1]: len(encode(HEADER) + row(0))}
    assert follower.sizes_bytes == {path: path.stat().st_size for path in paths}


def test_damaged_lines_are_counted_over_all_segments(tmp_path: Path) -> None:
    """Each once, while reading and after it."""
    write(tmp_path, 1, b"damaged\n", row(0), b"{}\n")
    write(tmp_path, 2, row(0), b"[1]\n")
    counts = []

    with Follower.of_run(tmp_path) as follower:
        for _ in follower.batches():
            counts.append(follower.bad_lines)
        counts.append(follower.bad_lines)
        follower.close()
        counts.append(follower.bad_lines)

    assert counts == [2, 3, 3, 3]


def test_a_large_segment_comes_in_bounded_batches_in_order(tmp_path: Path) -> None:
    """A week of rows is not loaded into memory at once; the next segment's come behind them."""
    write(tmp_path, 1, *map(row, range(8_000)))
    write(tmp_path, 2, row(9_000))

    with Follower.of_run(tmp_path) as follower:
        batches = [seqs(batch) for batch in follower.batches()]

    assert len(batches) > 3
    assert [seq for batch in batches if batch for seq in batch[1]] == [*range(8_000), 9_000]
    assert batches[-1] == (segment_name(2), [9_000])


def test_a_segment_that_cannot_be_opened_is_tried_again_and_nothing_read_twice(
    tmp_path: Path,
) -> None:
    """A network disk may be away for a moment; what was read before it is not read anew."""
    first = write(tmp_path, 1, row(0))
    second = tmp_path / segment_name(2)
    with Follower.of_segments([first, second]) as follower:
        before = seqs(follower.read())
        with pytest.raises(FileNotFoundError):
            follower.read()
        write(tmp_path, 2, row(1))
        after = [seqs(batch) for batch in follower.batches()]

    assert before == (segment_name(1), [0])
    assert after == [(segment_name(2), [1])]


def test_no_file_stays_open_behind_it(tmp_path: Path) -> None:
    """Status asks for all runs of a directory; a warning of an open file would be an error here."""
    for number in range(1, 4):
        write(tmp_path, number, row(number))
    opened = len(list(Path("/proc/self/fd").iterdir()))

    with Follower.of_run(tmp_path) as follower:
        list(follower.batches())
        during = len(list(Path("/proc/self/fd").iterdir()))

    assert during - opened <= 1
    assert len(list(Path("/proc/self/fd").iterdir())) == opened
