"""Console capture: everything is printed as before, and a copy goes into the ring."""

from __future__ import annotations

import io
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from fasttrack.hotpath.console import ConsoleCapture
from fasttrack.hotpath.ring import Ring

if TYPE_CHECKING:
    from fasttrack.hotpath.records import Console


def take_streams(monkeypatch: pytest.MonkeyPatch) -> tuple[io.StringIO, io.StringIO]:
    """Take stdout and stderr into our hands; no fixture, as pytest sets them after those."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    return out, err


def new_ring(capacity: int = 64) -> Ring[Console]:
    """Return a console ring that never waits."""
    return Ring(capacity, 0.0)


def texts(ring: Ring[Console]) -> list[tuple[str, str]]:
    """Return what was captured."""
    return [(piece.stream, piece.text) for piece in ring.pop(1000)]


def test_text_is_printed_and_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both streams, with what print() makes of it."""
    streams = take_streams(monkeypatch)
    ring = new_ring()
    capture = ConsoleCapture(ring)
    print("hello", 5)
    print("oops", file=sys.stderr)
    sys.stdout.writelines(["a\n", "b\n"])
    capture.stop()

    assert streams[0].getvalue() == "hello 5\na\nb\n"
    assert streams[1].getvalue() == "oops\n"
    captured = texts(ring)
    assert "".join(t for stream, t in captured if stream == "stdout") == "hello 5\na\nb\n"
    assert "".join(t for stream, t in captured if stream == "stderr") == "oops\n"


def test_write_returns_what_the_stream_returned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Programs may count the characters."""
    take_streams(monkeypatch)
    capture = ConsoleCapture(new_ring())
    written = sys.stdout.write("four")
    capture.stop()

    assert written == 4


def test_stop_puts_the_original_methods_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Afterwards nothing is captured, and the streams are as they were."""
    streams = take_streams(monkeypatch)
    original = sys.stdout.write
    ring = new_ring()
    capture = ConsoleCapture(ring)
    capture.stop()
    capture.stop()
    print("after")

    assert sys.stdout.write == original
    assert texts(ring) == []
    assert streams[0].getvalue() == "after\n"


def test_a_write_that_was_kept_from_before_stop_still_prints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Logging handlers may have kept our method; it goes on printing and captures no more."""
    streams = take_streams(monkeypatch)
    ring = new_ring()
    capture = ConsoleCapture(ring)
    kept = sys.stdout.write
    capture.stop()
    kept("late")

    assert streams[0].getvalue() == "late"
    assert texts(ring) == []


@pytest.mark.parametrize("first_out", ["outer", "inner"])
def test_two_captures_may_stop_in_any_order(
    monkeypatch: pytest.MonkeyPatch, first_out: str
) -> None:
    """Two trackers in one process: text is printed once, each captures while it is active."""
    streams = take_streams(monkeypatch)
    rings = {"inner": new_ring(), "outer": new_ring()}
    captures = {"inner": ConsoleCapture(rings["inner"])}
    captures["outer"] = ConsoleCapture(rings["outer"])
    print("both")
    captures[first_out].stop()
    print("one")
    last = "inner" if first_out == "outer" else "outer"
    captures[last].stop()
    print("none")

    assert streams[0].getvalue() == "both\none\nnone\n"
    assert "".join(text for _, text in texts(rings[first_out])) == "both\n"
    assert "".join(text for _, text in texts(rings[last])) == "both\none\n"


def test_somebody_who_wrapped_ours_is_not_undone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another library's wrapper on top of ours stays where it is."""
    streams = take_streams(monkeypatch)
    capture = ConsoleCapture(new_ring())
    ours = sys.stdout.write
    seen: list[str] = []

    def theirs(text: str) -> int:
        seen.append(text)
        return ours(text)

    sys.stdout.write = theirs  # type: ignore[method-assign]
    capture.stop()
    print("x", end="")

    assert sys.stdout.write is theirs
    assert "".join(seen) == "x"
    assert streams[0].getvalue() == "x"


def test_what_is_no_text_fails_as_it_would_without_us(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stream's own error comes through, and nothing is captured."""
    take_streams(monkeypatch)
    ring = new_ring()
    capture = ConsoleCapture(ring)
    with pytest.raises(TypeError):
        sys.stdout.write(b"bytes")  # type: ignore[arg-type]
    capture.stop()

    assert texts(ring) == []


def test_a_stream_that_takes_bytes_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some replacements of stdout take anything; only text is captured, and empty text is not."""
    got: list[Any] = []

    class Anything:
        def write(self, data: Any) -> None:
            got.append(data)

    monkeypatch.setattr(sys, "stdout", Anything())
    ring = new_ring()
    capture = ConsoleCapture(ring)
    for data in (b"bytes", "", "text"):
        sys.stdout.write(data)  # type: ignore[arg-type]
    capture.stop()

    assert got == [b"bytes", "", "text"]
    assert texts(ring) == [("stdout", "text")]


def test_streams_that_are_missing_or_cannot_be_wrapped_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Daemons have no stdout; some streams have no room for a method."""

    class Sealed:
        __slots__ = ()

        def write(self, text: str) -> int:
            return len(text)

    sealed = Sealed()
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", sealed)
    ring = new_ring()
    capture = ConsoleCapture(ring)
    sys.stderr.write("x")
    capture.stop()

    assert texts(ring) == []


def test_a_full_ring_never_delays_printing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is dropped from the copy, never from the terminal."""
    streams = take_streams(monkeypatch)
    ring = new_ring(capacity=2)
    capture = ConsoleCapture(ring)
    for number in range(10):
        sys.stdout.write(f"{number}\n")
    capture.stop()

    assert streams[0].getvalue() == "".join(f"{n}\n" for n in range(10))
    assert texts(ring) == [("stdout", "0\n"), ("stdout", "1\n")]
    assert ring.dropped == 8


def test_many_threads_print_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line is captured once, each thread's in order."""
    take_streams(monkeypatch)
    ring = new_ring(capacity=8192)
    capture = ConsoleCapture(ring)

    def chatter(name: int) -> None:
        for number in range(500):
            sys.stdout.write(f"{name} {number}\n")

    threads = [threading.Thread(target=chatter, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    capture.stop()

    lines = [piece.text for piece in ring.pop(10_000)]
    for name in range(4):
        mine = [line for line in lines if line.startswith(f"{name} ")]
        assert mine == [f"{name} {number}\n" for number in range(500)]
