"""Writing a segment: one per attempt, no torn line, whatever the disk does."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from fasttrack.journal.entries import Entry, Header, encode
from fasttrack.journal.follower import Follower
from fasttrack.journal.reader import read_header, read_segment
from fasttrack.journal.rows import Row, encode_row
from fasttrack.journal.run_directory import segment_name, segments
from fasttrack.journal.writer import SegmentWriter

HEADER = Header(run_id="ab12")
CONSOLE = b'{"kind":"console","stream":"stdout","text":"hello","time":1.0}\n'


def row(seq: int) -> bytes:
    """Return the line of a row."""
    return encode_row(seq, 10 * seq, 1.5, {"loss": 0.5 + seq})


def seqs(path: Path) -> list[int | None]:
    """Return the numbers of a segment's rows, None for what is no row."""
    return [entry.seq if isinstance(entry, Row) else None for entry in read_segment(path)]


@pytest.fixture
def limit_files() -> Iterator[Callable[[int], None]]:
    """Return what sets how large a file of this process may grow: a real disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class StaleDirectory(type(Path())):  # type: ignore[misc]
    """A directory as a process saw it a moment before another one began its segment there."""

    def glob(self, *_: object, **__: object) -> Iterable[Path]:
        """Return that nothing was there."""
        return []


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    """A journal holds configuration and console text: 0600 in 0700, whatever the umask."""
    old = os.umask(0)
    try:
        writer = SegmentWriter(tmp_path / "wandb" / "fasttrack" / "ab12", HEADER)
    finally:
        os.umask(old)
    writer.close()

    assert stat.S_IMODE(writer.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(writer.path.parent.stat().st_mode) == 0o700


def test_header_is_the_first_line_and_names_the_attempt(tmp_path: Path) -> None:
    """The header says what the segment is before any row."""
    writer = SegmentWriter(tmp_path, Header(run_id="ab12", attempt=7, project="vla-lego"))
    writer.append([row(0)])
    writer.close()

    assert read_header(writer.path) == Header(run_id="ab12", attempt=1, project="vla-lego")
    assert seqs(writer.path) == [None, 0]


def test_attempts_are_numbered_on(tmp_path: Path) -> None:
    """Each attempt of a run has a segment of its own; none is written twice."""
    writers = [SegmentWriter(tmp_path, HEADER) for _ in range(3)]
    for writer in writers:
        writer.close()

    headers = [read_header(writer.path) for writer in writers]
    assert [header and header.attempt for header in headers] == [1, 2, 3]
    assert segments(tmp_path) == [writer.path for writer in writers]


def test_next_attempt_follows_the_highest_one_over_gaps(tmp_path: Path) -> None:
    """A deleted segment's number is not used again, and 9999 is no limit."""
    (tmp_path / segment_name(9999)).touch()

    writer = SegmentWriter(tmp_path, HEADER)
    writer.close()

    assert writer.path.name == "segment-10000.jsonl"


def test_second_of_two_writers_in_a_race_takes_the_next_number(tmp_path: Path) -> None:
    """Two processes that resume one run at the same instant must not share a segment."""
    winner = SegmentWriter(tmp_path, Header(run_id="ab12", host="winner"))

    loser = SegmentWriter(StaleDirectory(tmp_path), Header(run_id="ab12", host="loser"))
    winner.close()
    loser.close()

    assert read_header(winner.path) == Header(run_id="ab12", attempt=1, host="winner")
    assert read_header(loser.path) == Header(run_id="ab12", attempt=2, host="loser")


def test_directory_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    """The tracker turns it into a DirectoryError."""
    (tmp_path / "wandb").write_text("a file in the way")

    with pytest.raises(OSError, match="wandb"):
        SegmentWriter(tmp_path / "wandb" / "fasttrack" / "ab12", HEADER)


def test_header_that_the_disk_does_not_take_leaves_no_segment(
    tmp_path: Path, limit_files: Callable[[int], None]
) -> None:
    """An attempt that could not begin has not been; nor is its file left open."""
    opened = len(list(Path("/proc/self/fd").iterdir()))
    limit_files(20)

    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        SegmentWriter(tmp_path, HEADER)

    assert segments(tmp_path) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == opened


def test_header_that_json_cannot_hold_leaves_no_segment(tmp_path: Path) -> None:
    """A mistake of ours must not leave a segment that nobody can tell anything of."""
    with pytest.raises(TypeError):
        SegmentWriter(tmp_path, Header(run_id="ab12", config={"a": object()}))

    assert segments(tmp_path) == []


@pytest.mark.parametrize(
    "lines", [[row(0), row(1), CONSOLE], [row(0) + row(1) + CONSOLE]], ids=["lines", "piece"]
)
def test_full_disk_tears_no_line_and_keeps_the_order(
    tmp_path: Path, limit_files: Callable[[int], None], lines: list[bytes]
) -> None:
    """What was written in part is held, and completed first once there is room."""
    writer = SegmentWriter(tmp_path, HEADER)
    limit_files(writer.path.stat().st_size + len(row(0)) + 5)
    error = writer.append(lines)
    held = (writer.held_lines, writer.held_rows)
    seen = seqs(writer.path)
    limit_files(resource.RLIM_INFINITY)
    recovered = writer.append([row(2)])
    writer.close()

    assert error is not None
    assert error.errno == errno.EFBIG
    assert (held, seen) == ((2, 1), [None, 0])
    assert recovered is None
    assert (writer.held_lines, writer.held_rows) == (0, 0)
    assert seqs(writer.path) == [None, 0, 1, None, 2]


@pytest.mark.parametrize("room", range(0, 3 * len(row(0)) + 2, 7))
def test_a_line_that_was_read_once_is_never_taken_back(
    tmp_path: Path,
    limit_files: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    room: int,
) -> None:
    """Delivery reads along on a full disk; the server had ten rows that the journal then lacked.

    The whole lines of a write that came through in part were cut off again, and dropped later.
    """
    writer = SegmentWriter(tmp_path, HEADER, held_limit_bytes=0)
    begun_bytes = writer.path.stat().st_size
    lost = 0
    read: list[Entry] = []
    with Follower.of_segments([writer.path]) as follower:

        def write(fd: int, data: bytes, real: Callable[[int, bytes], int] = os.write) -> int:
            written = real(fd, data)
            read.extend(entry for batch in follower.batches() for entry in batch.entries)
            return written

        monkeypatch.setattr(os, "write", write)
        read += [entry for batch in follower.batches() for entry in batch.entries]
        limit_files(begun_bytes + room)
        writer.append([row(0), row(1), row(2)])
        lost += writer.trim_held()
        limit_files(resource.RLIM_INFINITY)
        writer.append([row(3)])
        bad_lines = follower.bad_lines
    writer.close()

    assert read == read_segment(writer.path)
    assert bad_lines == 0
    assert sum(isinstance(entry, Row) for entry in read) + lost == 4


def test_held_lines_have_a_limit_in_memory_and_the_newest_go_first(
    tmp_path: Path, limit_files: Callable[[int], None]
) -> None:
    """A disk that stays full cannot fill the memory; the rows that are dropped are counted."""
    limit = len(row(0) + row(1))
    writer = SegmentWriter(tmp_path, HEADER, held_limit_bytes=limit)
    limit_files(writer.path.stat().st_size)
    writer.append([row(0), row(1), CONSOLE, row(2)])

    dropped = writer.trim_held()

    limit_files(resource.RLIM_INFINITY)
    writer.append([])
    writer.close()
    assert dropped == 1
    assert writer.held_lines == 0
    assert seqs(writer.path) == [None, 0, 1]


def test_all_held_lines_can_be_given_up(tmp_path: Path, limit_files: Callable[[int], None]) -> None:
    """At the end there is no later, and what is lost is told."""
    writer = SegmentWriter(tmp_path, HEADER)
    limit_files(writer.path.stat().st_size)
    writer.append([row(0), CONSOLE, row(1)])

    assert writer.trim_held() == 0
    assert writer.trim_held(to_nothing=True) == 2
    limit_files(resource.RLIM_INFINITY)
    writer.close()
    assert writer.path.read_bytes() == encode(HEADER)


def test_file_system_without_fsync_is_no_error(tmp_path: Path) -> None:
    """The rows are in the page cache; closing goes on."""
    writer = SegmentWriter(tmp_path, HEADER)
    reading, writing = os.pipe()
    os.dup2(writing, writer._fd)  # a pipe cannot be synced: EINVAL, as on such a file system
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        os.fsync(writer._fd)

    writer.close()

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writer._fd)
    os.close(reading)
    os.close(writing)
