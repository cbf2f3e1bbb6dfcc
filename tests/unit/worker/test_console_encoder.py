"""What the program printed, as the journal holds it."""

from __future__ import annotations

from fasttrack.hotpath.records import Console
from fasttrack.journal import entries
from fasttrack.redaction import REDACTED
from fasttrack.worker.console import ConsoleEncoder


def printed(*pieces: tuple[str, str]) -> list[Console]:
    """Return pieces of (stream, text), printed at 0, 1, 2 ... seconds."""
    return [Console(stream, text, float(s)) for s, (stream, text) in enumerate(pieces)]


def read(lines: list[bytes]) -> list[tuple[str, str, float]]:
    """Return what lines of the journal hold."""
    found = [entries.decode(line) for line in lines]
    assert all(isinstance(entry, entries.Console) for entry in found)
    return [(e.stream, e.text, e.time_s) for e in found if isinstance(e, entries.Console)]


def test_a_secret_printed_over_two_rounds_is_hidden() -> None:
    """The worker may look in the midst of a `print`."""
    encoder = ConsoleEncoder()

    first = encoder.encode(printed(("stdout", "a\npassword:"), ("stdout", " ")))
    second = encoder.encode(printed(("stdout", "s3cr3t\n")))

    assert read(first) == [("stdout", "a\n", 0.0)]
    assert read(second) == [("stdout", f"password: {REDACTED}\n", 1.0)]


def test_unfinished_line_is_given_out_with_its_time_once_nothing_more_comes() -> None:
    """A prompt stands there as long as nobody answers."""
    encoder = ConsoleEncoder()

    assert encoder.encode(printed(("stdout", "go on? "))) == []
    assert read(encoder.encode([])) == [("stdout", "go on? ", 0.0)]
    assert encoder.encode([]) == encoder.end() == []


def test_order_of_the_streams_is_kept() -> None:
    """An unfinished line of one stands before what the other prints next."""
    encoder = ConsoleEncoder()
    pieces = printed(("stderr", "oops"), ("stdout", "a\n"), ("stderr", "x\n"), ("stdout", "b"))

    lines = encoder.encode(pieces) + encoder.end()

    assert [text for _, text, _ in read(lines)] == ["oops", "a\n", "x\n", "b"]


def test_what_is_held_back_at_the_end_is_written() -> None:
    """The last words of a program often lack their newline; a cut-off key is still a key."""
    encoder = ConsoleEncoder()
    begun = "-----BEGIN PRIVATE KEY-----\nMIIE"

    lines = encoder.encode(printed(("stdout", f"a\n{begun}"), ("stderr", "bye")))

    assert read(lines) == [("stdout", "a\n", 0.0)]
    assert encoder.encode([]) != []  # the line that rests
    assert read(encoder.end()) == [("stdout", REDACTED, 0.0)]


def test_lone_surrogates_are_written_as_question_marks() -> None:
    """Names of files that are not UTF-8 are printed, too."""
    assert read(ConsoleEncoder().encode(printed(("stdout", "a\udcff\n")))) == [
        ("stdout", "a?\n", 0.0)
    ]
