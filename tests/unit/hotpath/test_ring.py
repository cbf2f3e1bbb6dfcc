"""The ring: order, exactly-once, full, interrupted, and what the fast path is made of."""

from __future__ import annotations

import dis
import functools
import itertools
import signal
import sys
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

import pytest

from fasttrack.hotpath.ring import Ring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HANG_GUARD_S = 120.0
PRODUCERS = 8
ITEMS_EACH = 20_000


class Clock:
    """Stands for the `time` module in ring.py: sleeping only moves the hands."""

    def __init__(self) -> None:
        """Start at 0 s, with nothing to do while somebody sleeps or reads the clock."""
        self.now_s = 0.0
        self.sleeps = 0
        self.while_asleep: list[Callable[[], Any]] = []  # one for each of the next sleeps
        self.at_reading: list[Callable[[], Any]] = []  # one for each of the next readings

    def monotonic(self) -> float:
        """Return the time, after doing what was planned for this reading."""
        if self.at_reading:
            self.at_reading.pop(0)()
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        """Move on, after doing what was planned for this sleep."""
        self.sleeps += 1
        if self.while_asleep:
            self.while_asleep.pop(0)()
        self.now_s += duration_s


@pytest.fixture
def clock() -> Clock:
    """A ring's clock, in our hands."""
    return Clock()


@pytest.fixture
def hasty_switching() -> Iterator[None]:
    """Have the interpreter switch threads as often as it can."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval_s)


def full_ring(clock: Clock, full_wait_s: float = 1.0) -> Ring[str]:
    """Return a ring of two slots that holds "a" and "b"."""
    ring: Ring[str] = Ring(2, full_wait_s, clock=clock.monotonic, pause=clock.sleep)
    assert ring.push("a")
    assert ring.push("b")
    return ring


def interrupt() -> None:
    """Do what Ctrl-C does."""
    raise KeyboardInterrupt


def take_all(ring: Ring[str], taken: list[str]) -> None:
    """Consume what is there."""
    taken.extend(ring.pop(10))


def test_two_slots_keep_the_order_over_thousands_of_wraps() -> None:
    """A slot is used again and again, and nothing comes twice, late or never."""
    ring: Ring[int] = Ring(2, 0.0)
    numbers = itertools.count()
    taken: list[int] = []
    for round_number in range(10_000):
        for _ in range(1 + round_number % 2):
            assert ring.push(next(numbers))
        taken += ring.pop(2)

    assert taken == list(range(next(numbers)))
    assert ring.dropped == 0


def test_pop_takes_at_most_what_it_was_asked_for() -> None:
    """The rest stays, in order, for the next pop."""
    ring: Ring[int] = Ring(8, 0.0)
    for number in range(5):
        ring.push(number)

    assert ring.pop(2) == [0, 1]
    assert ring.pop(2) == [2, 3]
    assert ring.pop(2) == [4]
    assert ring.pop(2) == []


@pytest.mark.parametrize("capacity", [2, 1024])
@pytest.mark.usefixtures("hasty_switching")
def test_each_of_eight_producers_arrives_exactly_once_and_in_order(capacity: int) -> None:
    """Eight threads push at once; the consumer sees every thread's items in its order."""
    items_each = ITEMS_EACH if capacity > 2 else 200  # two slots mean a wait for every item
    ring: Ring[tuple[int, int]] = Ring(capacity, HANG_GUARD_S)
    start = threading.Barrier(PRODUCERS + 1)

    def produce(producer: int) -> None:
        start.wait()
        for number in range(items_each):
            ring.push((producer, number))

    threads = [threading.Thread(target=produce, args=(n,), daemon=True) for n in range(PRODUCERS)]
    for thread in threads:
        thread.start()
    start.wait()
    taken: list[tuple[int, int]] = []
    deadline = time.monotonic() + HANG_GUARD_S
    while len(taken) < PRODUCERS * items_each and time.monotonic() < deadline:
        items = ring.pop(32)
        taken += items
        if not items:
            time.sleep(0)
    for thread in threads:
        thread.join(HANG_GUARD_S)

    for producer in range(PRODUCERS):
        assert [number for who, number in taken if who == producer] == list(range(items_each))
    assert len(taken) == PRODUCERS * items_each
    assert ring.pop(1) == []
    assert ring.dropped == 0


@pytest.mark.usefixtures("hasty_switching")
def test_what_is_not_counted_as_dropped_arrives() -> None:
    """Eight threads overrun a ring that never waits: pushed = taken + dropped."""
    ring: Ring[tuple[int, int]] = Ring(8, 0.0)
    accepted: list[list[int]] = [[] for _ in range(PRODUCERS)]

    def produce(producer: int) -> None:
        accepted[producer] = [n for n in range(2_000) if ring.push((producer, n))]

    threads = [threading.Thread(target=produce, args=(n,), daemon=True) for n in range(PRODUCERS)]
    for thread in threads:
        thread.start()
    taken: list[tuple[int, int]] = []
    deadline = time.monotonic() + HANG_GUARD_S
    while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:
        taken += ring.pop(32)
        time.sleep(0)
    while items := ring.pop(32):
        taken += items

    for producer in range(PRODUCERS):
        assert [number for who, number in taken if who == producer] == accepted[producer]
    assert len(taken) + ring.dropped == PRODUCERS * 2_000


def test_full_ring_waits_then_drops_the_newest_and_counts_it(clock: Clock) -> None:
    """What was there first stays; the caller has waited for `full_wait_s`, and no longer."""
    ring = full_ring(clock, full_wait_s=1.0)

    assert ring.push("c") is False
    assert clock.now_s == pytest.approx(1.0, abs=0.01)
    assert ring.dropped == 1
    assert ring.pop(10) == ["a", "b"]


def test_while_the_ring_is_full_later_pushes_drop_at_once(clock: Clock) -> None:
    """A worker that hangs stops training once, not at every step."""
    ring = full_ring(clock)
    ring.push("c")
    sleeps = clock.sleeps

    assert not any(ring.push("later") for _ in range(100))
    assert clock.sleeps == sleeps
    assert ring.dropped == 101


def test_a_full_ring_has_room_again_after_a_pop(clock: Clock) -> None:
    """Drops end as soon as the consumer has taken something."""
    ring = full_ring(clock)
    ring.push("c")
    ring.push("d")
    ring.pop(2)

    assert ring.push("e")
    assert ring.pop(2) == ["e"]
    assert ring.dropped == 2


def test_a_burst_that_the_consumer_catches_up_with_loses_nothing(clock: Clock) -> None:
    """A push that waits goes in when there is room, behind what was there."""
    ring = full_ring(clock)
    clock.while_asleep = [lambda: None, lambda: None, lambda: ring.pop(1)]

    assert ring.push("c")
    assert clock.sleeps == 3
    assert ring.pop(10) == ["b", "c"]
    assert ring.dropped == 0


def test_a_waiting_push_gives_up_when_another_one_has(clock: Clock) -> None:
    """Threads that wait together do not wait one after another."""
    ring = full_ring(clock, full_wait_s=1.0)
    clock.while_asleep = [lambda: ring.push("inner")]  # as from a signal handler; it times out

    assert ring.push("outer") is False
    assert clock.now_s == pytest.approx(1.0, abs=0.01)
    assert ring.dropped == 2
    assert ring.pop(10) == ["a", "b"]


def test_consumer_that_empties_the_ring_during_the_last_look_does_not_close_it(
    clock: Clock,
) -> None:
    """Giving up at the very moment when the ring was emptied must not make it full for ever."""
    ring = full_ring(clock, full_wait_s=0.0)
    clock.at_reading = [lambda: None, lambda: ring.pop(10)]  # after the look for room, before full
    ring.push("c")
    ring.pop(10)

    assert ring.push("d")
    assert ring.pop(10) == ["d"]


def test_interrupted_wait_leaves_no_hole(clock: Clock) -> None:
    """Ctrl-C in a waiting push: the consumer does not wait for a record that never comes."""
    ring = full_ring(clock)
    clock.while_asleep = [interrupt]
    with pytest.raises(KeyboardInterrupt):
        ring.push("c")

    assert ring.pop(10) == ["a", "b"]
    assert [ring.push("d"), ring.push("e")] == [True, True]
    assert ring.pop(10) == ["d", "e"]


def test_signal_in_a_waiting_main_thread_leaves_no_hole() -> None:
    """The same with a real signal, sent while the main thread waits for room."""
    waiting = threading.Event()

    class RealClock(Clock):
        def monotonic(self) -> float:
            return time.monotonic()

        def sleep(self, duration_s: float) -> None:
            waiting.set()
            time.sleep(duration_s)

    ring = full_ring(RealClock(), full_wait_s=HANG_GUARD_S)
    main = threading.main_thread().ident
    assert main is not None

    def send() -> None:
        if waiting.wait(HANG_GUARD_S):
            signal.pthread_kill(main, signal.SIGINT)

    sender = threading.Thread(target=send, daemon=True)
    # A job in a shell's background inherits SIGINT as ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sender.start()
        with pytest.raises(KeyboardInterrupt):
            ring.push("c")
        sender.join(HANG_GUARD_S)
    finally:
        signal.signal(signal.SIGINT, before)

    assert ring.pop(10) == ["a", "b"]
    assert ring.push("d")
    assert ring.pop(10) == ["d"]


@pytest.mark.parametrize("consumer", ["hangs", "makes room"])
def test_signal_at_any_moment_of_a_push_on_a_full_ring_leaves_no_hole(
    clock: Clock, consumer: str
) -> None:
    """Try every point at which CPython would raise KeyboardInterrupt, one after another."""
    broken = []
    for moment in itertools.count():
        ring = full_ring(clock, full_wait_s=0.001)
        taken: list[str] = []
        clock.while_asleep = []
        if consumer == "makes room":
            clock.while_asleep = [functools.partial(take_all, ring, taken)]
        interrupted_at = push_interrupted(ring, "c", moment)
        if interrupted_at is None:
            break
        taken += ring.pop(10)
        ring.push("d")
        taken += ring.pop(10)
        if taken not in (["a", "b", "d"], ["a", "b", "c", "d"]):
            broken.append(f"{interrupted_at}: {taken}")

    assert moment >= 5
    assert broken == []


def push_interrupted(ring: Ring[str], item: str, moment: int) -> str | None:
    """Push with a KeyboardInterrupt at the `moment`th point that can have one; return where."""
    traced = {Ring.push.__code__, Ring._gets_room.__code__}
    names = {code: {i.offset: i.opname for i in dis.get_instructions(code)} for code in traced}
    last: dict[FrameType, str] = {}
    seen = itertools.count()
    where: str | None = None

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal where
        if frame.f_code not in traced:
            return None
        frame.f_trace_opcodes = True
        point = event == "call" and frame.f_code is not Ring.push.__code__
        if event == "opcode":
            name = names[frame.f_code][frame.f_lasti]
            point = may_raise_after(last.get(frame, ""), name)
            last[frame] = name
        if point and next(seen) == moment:
            where = f"{frame.f_code.co_name}:{frame.f_lineno} ({event})"
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        ring.push(item)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return where


def may_raise_after(opname: str, next_opname: str) -> bool:
    """Return whether CPython handles signals between these two instructions."""
    if "CALL" in opname and opname != "PRECALL":
        return True
    if sys.version_info < (3, 11):  # ceval.c: jumps too, but never just before a `try`
        return "JUMP" in opname and not next_opname.startswith("SETUP_")
    return "JUMP_BACKWARD" in opname


@pytest.mark.parametrize("full_wait_s", [0.0, 1.0])
def test_signal_at_any_moment_of_a_push_with_room_leaves_the_item_whole(full_wait_s: float) -> None:
    """It is in or it is not, and what comes after it arrives."""
    found = []
    for moment in itertools.count():
        ring: Ring[str] = Ring(2, full_wait_s)
        if push_interrupted(ring, "a", moment) is None:
            break
        ring.push("b")
        found.append(ring.pop(10))

    assert moment >= 2
    assert [taken for taken in found if taken not in (["b"], ["a", "b"])] == []


def test_push_while_another_waits_and_is_interrupted_arrives(clock: Clock) -> None:
    """One push waits and is interrupted while a later one waits behind it: that one arrives."""
    ring = full_ring(clock)

    def push_later_then_interrupt() -> None:
        ring.push("later")  # waits, too
        interrupt()

    clock.while_asleep = [
        push_later_then_interrupt,
        lambda: ring.pop(2),  # the later one finds room before the first has looked
    ]
    with pytest.raises(KeyboardInterrupt):
        ring.push("first")

    assert ring.pop(10) == ["later"]
    assert ring.push("after")
    assert ring.pop(10) == ["after"]


def test_a_push_that_waits_holds_up_no_other(clock: Clock) -> None:
    """What another thread, or a signal handler, logs meanwhile goes in when there is room."""
    ring = full_ring(clock)
    early: list[str] = []

    def overtake() -> None:
        ring.pop(2)
        ring.push("quick")
        early.extend(ring.pop(10))

    clock.while_asleep = [overtake]

    assert ring.push("slow")
    assert early == ["quick"]
    assert ring.pop(10) == ["slow"]
    assert ring.dropped == 0


def test_more_than_its_capacity_is_in_it_only_by_pushes_at_the_same_instant() -> None:
    """Each of eight threads that never stop may add one; nothing grows without limit."""
    ring: Ring[int] = Ring(8, 0.0)
    stop = threading.Event()
    longest = 0

    def produce() -> None:
        while not stop.is_set():
            ring.push(1)

    threads = [threading.Thread(target=produce, daemon=True) for _ in range(PRODUCERS)]
    for thread in threads:
        thread.start()
    for _ in range(2_000):
        longest = max(longest, ring.count())
        ring.pop(3)
    stop.set()
    for thread in threads:
        thread.join(HANG_GUARD_S)

    assert longest <= 8 + PRODUCERS - 1


def test_drops_are_counted_exactly_from_many_threads() -> None:
    """The count is the one thing that takes a lock, and loses none."""
    ring = full_ring(Clock(), full_wait_s=0.0)  # nobody pops
    threads = [
        threading.Thread(target=lambda: [ring.push("x") for _ in range(500)], daemon=True)
        for _ in range(PRODUCERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_GUARD_S)

    assert ring.dropped == PRODUCERS * 500
    assert ring.pop(10) == ["a", "b"]


def test_push_with_room_does_nothing_but_append() -> None:
    """No lock, no clock, no system call: the profiler sees which calls leave `push`."""
    ring: Ring[str] = Ring(2, 0.0)
    events: list[tuple[str, str]] = []

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        name = frame.f_code.co_name if event in ("call", "return") else arg.__name__
        events.append((event, name))

    before = sys.getprofile()
    sys.setprofile(profile)
    ring.push("a")
    sys.setprofile(before)

    called = {name for event, name in events if event in ("call", "c_call")}
    assert called - {"setprofile"} == {"push", "len", "append"}
