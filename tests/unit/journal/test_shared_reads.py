"""What one has read of a segment, another takes over, as if it had read it itself."""

from __future__ import annotations

import random
from pathlib import Path

from support.journals import make_header

from fasttrack.journal.entries import encode
from fasttrack.journal.reader import SegmentReader
from fasttrack.journal.rows import encode_row
from fasttrack.journal.run_directory import segment_name
from fasttrack.journal.shared_reads import Piece, SharedReads


def line(seq: int) -> bytes:
    """Return a row's line."""
    return encode_row(seq, seq, 1.5, {"loss": seq / 3})


def test_several_readers_read_what_one_alone_does_however_the_file_grows(tmp_path: Path) -> None:
    """Torn lines, damaged ones and long ones included; whoever comes second reads nothing anew."""
    taken_over = 0
    for seed in range(20):
        chance = random.Random(seed)
        path = tmp_path / f"{seed}-{segment_name(1)}"
        path.touch()
        shared = SharedReads()
        readers = [SegmentReader(path, shared=shared) for _ in range(3)]
        found: list[list[object]] = [[] for _ in readers]
        text = encode(make_header("ab12")) + b"".join(
            chance.choice([line(seq)] * 9 + [b"[]\n", b"\n", b" " * 2**19 + line(seq)])
            for seq in range(200)
        )
        written = 0
        while written < len(text):
            size = chance.choice([1, 50, 3_000, 100_000, 600_000])
            with path.open("ab") as file:
                file.write(text[written : written + size])
            written += size
            for reader, entries in zip(readers, found, strict=True):
                while chance.random() < 0.7 and (batch := reader.read()):
                    entries += batch
        alone = SegmentReader(path)
        expected: list[object] = []
        for reader, entries in [*zip(readers, found, strict=True), (alone, expected)]:
            while batch := reader.read():
                entries += batch
            assert not reader.has_more
            reader.close()
        for reader, entries in zip(readers, found, strict=True):
            assert entries == expected
            assert (reader.bad_lines, reader.damage) == (alone.bad_lines, alone.damage)
            assert reader.size_bytes == reader.whole_bytes == len(text)
        first = {id(entry) for entry in found[0]}
        taken_over += sum(id(entry) in first for entry in found[1])
    assert taken_over > 1000


def test_a_reader_may_keep_what_it_reads_to_itself(tmp_path: Path) -> None:
    """One that begins in the middle does not know the numbers of damaged lines."""
    path = tmp_path / segment_name(1)
    start = encode(make_header("ab12")) + line(0)
    path.write_bytes(start + b"[]\n" + line(1))
    shared = SharedReads()
    later = SegmentReader(path, len(start), shared, shares=False)

    assert len(later.read()) == 1
    assert shared.idle_s() == float("inf")
    assert shared.starting_at(path, len(start)) is None
    later.close()


def test_old_pieces_make_room_for_new_ones(tmp_path: Path) -> None:
    """Up to a mebibyte of lines is kept, and the newest whatever its size."""
    path = tmp_path / segment_name(1)
    noted: list[int] = []
    shared = SharedReads()
    shared.on_note = lambda: noted.append(1)

    def piece(start: int, end: int) -> Piece:
        return Piece(path, start, end, [], 1, 0, [], may_have_more=False)

    for start in range(0, 2**20, 2**18):
        shared.note(piece(start, start + 2**18))
    assert shared.starting_at(path, 0) is not None
    assert shared.starting_at(tmp_path / segment_name(2), 0) is None
    shared.note(piece(2**20, 2**20 + 1))
    assert shared.starting_at(path, 0) is None
    assert shared.starting_at(path, 2**18) is not None
    shared.note(piece(2**20 + 1, 2**22))
    assert shared.starting_at(path, 2**20) is None
    assert shared.starting_at(path, 2**20 + 1) is not None
    assert len(noted) == 6


def test_it_tells_how_long_nobody_has_read(tmp_path: Path) -> None:
    """From nothing at all on."""
    now_s = 5.0
    shared = SharedReads(lambda: now_s)
    assert shared.idle_s() == float("inf")
    shared.note(Piece(tmp_path, 0, 1, [], 1, 0, [], may_have_more=False))
    now_s = 7.5
    assert shared.idle_s() == 2.5
