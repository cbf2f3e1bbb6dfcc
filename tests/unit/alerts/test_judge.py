"""What is worth an alert: real healthy curves are not, what goes wrong is, once."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from bench.alerts.__main__ import judge, spiked
from bench.alerts.curves import curve
from fasttrack.alerts.judge import Finding, Judge
from fasttrack.alerts.rules import parse_rule
from fasttrack.alerts.settings import AlertSettings
from fasttrack.journal.rows import Row, encode_row
from fasttrack.journal.shapes import RowShapes

BEGAN_S = 1_000_000.0


def make(attempt: int = 1, **settings: Any) -> Judge:
    """Return a judge at the beginning of an attempt."""
    made = Judge(AlertSettings(**settings))
    made.begin(attempt)
    return made


def rows(losses: list[float], first_step: int = 0, interval_s: float = 1.0) -> list[Row]:
    """Return a row for each loss."""
    return [
        Row(seq, first_step + seq, BEGAN_S + seq * interval_s, {"loss/total": loss})
        for seq, loss in enumerate(losses)
    ]


def noisy(count: int, level: float = 1.0) -> list[float]:
    """Return losses around a level, from 0.8 to 1.2 times of it."""
    return [level * (1 + 0.2 * math.sin(n * 12.9898)) for n in range(count)]


def kinds(found: list[Finding]) -> list[tuple[str, int | None]]:
    """Return kind and step of each."""
    return [(finding.kind, finding.step) for finding in found]


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_healthy_run_has_no_alert_and_its_spike_is_seen(seed: int) -> None:
    """Real runs of many recipes; `python -m bench.alerts --curves 1000` does a thousand."""
    points = list(curve(seed))
    changed, at = spiked(points, seed)

    assert judge(points) == []
    ((kind, step),) = kinds(judge(changed))
    assert kind == "spike"
    assert step is not None
    assert at <= step < at + 10


def test_one_bad_batch_is_no_spike_and_three_of_five_are() -> None:
    """Whatever its height."""
    losses = noisy(100)
    losses[70] = losses[80] = losses[81] = 1e6
    assert make().see(rows(losses)) == []
    losses[83] = 1e6

    (found,) = make().see(rows(losses))
    assert (found.kind, found.level, found.step) == ("spike", "WARN", 83)
    assert found.text.startswith("loss/total is 1e+06 at step 83; it was ")


def test_a_new_level_is_told_once_and_then_usual() -> None:
    """And what jumps from there is news again."""
    found = make().see(rows([*noisy(100), *noisy(300, 10.0), *noisy(100, 100.0)]))

    assert kinds(found) == [("spike", 102), ("spike", 402)]


def test_a_loss_that_never_changes_and_then_hardly_does_is_no_spike() -> None:
    """Zero spread is no reason."""
    assert make().see(rows([2.0] * 100 + [2.1] * 100)) == []


def test_a_loss_that_is_not_finite_is_told_once_for_each_time_that_it_begins() -> None:
    """Of every metric that is a loss, by its name; a loss scale is none."""
    lists = [0.5, math.nan, math.inf, *[0.5] * 60, -math.inf]
    names = ("loss/total", "eval/loss", "train_loss", "lm loss", "loss_scale", "train/lossy")
    given = [Row(n, n, BEGAN_S + n, dict.fromkeys(names, loss)) for n, loss in enumerate(lists)]

    found = make().see(given)
    assert [f.title for f in found if f.step == 1] == [f"{name} is nan" for name in names[:4]]
    assert {(f.kind, f.level, f.step) for f in found} == {
        ("non_finite", "ERROR", 1),
        ("non_finite", "ERROR", 63),
    }
    assert len({f.key for f in found}) == len(found)


@pytest.mark.parametrize(("exact_first", "told"), [(True, [7]), (False, [10, 7])])
def test_the_first_bad_loss_of_a_trainer_is_told_once_and_by_its_own_step(
    exact_first: bool, told: list[int]
) -> None:
    """Logged by an adapter, by what else looks at every step, in the next rows, and again."""
    exact = [Row(1, 7, BEGAN_S + 7, {"train/nonfinite_loss": math.nan})]
    exact.append(Row(2, 7, BEGAN_S + 7, {"loss/total": math.nan}))
    later = [Row(3, step, BEGAN_S + step, {"loss/total": math.nan}) for step in (10, 20)]
    judge = make()
    found = judge.see(rows([0.5]))
    for given in (exact, later) if exact_first else (later, exact):
        found += judge.see(given)
        known = json.loads(json.dumps(judge.state()))
        judge = Judge(AlertSettings())
        judge.restore(known)
    judge.begin(2)

    assert kinds(found) == [("non_finite", step) for step in told]
    assert found[0].title == "loss/total is nan"
    assert judge.see(rows([0.5, *[math.nan] * 15], 5)) == []
    assert judge.see(exact) == []


def test_rows_as_the_journal_spells_them_are_judged_alike() -> None:
    """Most are never taken to pieces; one with a NaN is."""
    losses = [*noisy(150), math.nan, *noisy(50, 30.0)]
    shapes = RowShapes()
    spelled = [
        shapes.decode(encode_row(r.seq, r.step, r.time_s, {"lr": 0.1, **r.values})[:-1])
        for r in rows(losses)
    ]
    given = [row for row in spelled if isinstance(row, Row)]
    assert given[-1].names is not None

    settings: dict[str, Any] = {"rules": (parse_rule("lr < 1", "here"),)}
    found = make(**settings).see(given)
    assert kinds(found) == [("rule", 0), ("non_finite", 150), ("spike", 153)]


def test_what_is_known_goes_on_in_the_next_process() -> None:
    """By way of the disk: usual values, and what was told."""
    losses = [*noisy(100), math.nan, *noisy(100), *noisy(30, 50.0), math.nan]
    whole = make().see(rows(losses))
    given, parted = rows(losses), []
    state: dict[str, Any] | None = None
    for start in range(0, len(given), 9):
        fresh = Judge(AlertSettings())
        if state is None:
            fresh.begin(1)
        else:
            fresh.restore(state)
        parted += fresh.see(given[start : start + 9])
        state = json.loads(json.dumps(fresh.state()))

    assert kinds(whole) == [("non_finite", 100), ("spike", 203), ("non_finite", 231)]
    assert parted == whole


def test_damaged_knowledge_counts_as_none() -> None:
    """Whatever stands in the file."""
    for state in ({}, {"detectors": 3}, {"detectors": {"spike:loss/total": {"values": "x"}}}):
        fresh = Judge(AlertSettings())
        fresh.restore(state)
        fresh.begin(1)
        assert fresh.see(rows(noisy(60))) == []


def test_an_attempt_that_begins_anew_from_a_checkpoint_is_no_spike() -> None:
    """Its loss is what it was then; what is far above that is one, still."""
    falling = [4.0 * 0.97**n for n in range(200)]
    resumed = make()
    assert resumed.see(rows(falling)) == []
    resumed.begin(2)
    assert resumed.see(rows(falling[60:], first_step=60)) == []
    resumed.begin(3)

    assert kinds(resumed.see(rows([9.0] * 5, first_step=150))) == [("spike", 152)]


# --- time -----------------------------------------------------------------------------------------


def wait(watch: Judge, seconds: int, **standing: bool) -> list[tuple[str, int | None]]:
    """Let seconds pass; return what was found."""
    found = []
    for second in range(seconds):
        found += watch.wait(1.0, BEGAN_S + second, **standing)
    return kinds(found)


def test_a_stall_is_far_longer_than_what_was_usual() -> None:
    """Thrice the longest, and as long as was asked for; told once until a row comes."""
    watch = make(stall=20.0)
    watch.see(rows([1.0] * 12, interval_s=10.0))

    assert wait(watch, 29) == []
    assert wait(watch, 100) == [("stall", 11)]
    watch.see(rows([1.0], first_step=12))
    assert wait(watch, 300) == [("stall", 12)]


def test_pauses_and_the_first_rows_are_no_stall() -> None:
    """Nobody knows yet what is usual; what is marked is meant."""
    watch = make(stall=20.0)
    watch.see(rows([1.0] * 3))
    assert wait(watch, 100) == []
    watch.see(rows([1.0] * 12))
    watch.paused = True
    assert wait(watch, 1000) == []
    watch.paused = False

    assert wait(watch, 25) == [("stall", 11)]


def test_a_process_that_is_stopped_is_told_of_within_ten_seconds() -> None:
    """It may be in a pause, and at its very beginning."""
    watch = make()
    watch.paused = True

    assert wait(watch, 9, stopped=True) == []
    assert wait(watch, 30, stopped=True) == [("hung", None)]


def test_a_process_that_runs_no_python_is_told_of_within_thirty_seconds() -> None:
    """But not one that waits as long for each of its steps, or has just begun, or pauses."""
    watch = make()
    assert wait(watch, 100, still=True) == []
    watch.see(rows([1.0] * 12))
    assert wait(watch, 24, still=True) == []
    assert wait(watch, 1) == []
    assert wait(watch, 30, still=True) == [("hung", 11)]
    slow = make()
    slow.see(rows([1.0] * 12, interval_s=60.0))
    assert wait(slow, 179, still=True) == []


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exit_code", "preempting", "title"),
    [
        (0, False, None),
        (130, False, None),
        (143, True, None),
        (1, False, "training failed"),
        (-11, False, "training failed"),
        (None, False, "training died"),
    ],
)
def test_an_end_that_nobody_wanted_is_told(
    exit_code: int | None, preempting: bool, title: str | None
) -> None:
    """Not Ctrl-C, and not what goes on in another attempt."""
    watch = make(attempt=3)
    watch.see(rows([1.0, 2.0]))
    found = watch.end(exit_code, BEGAN_S, preempting=preempting)

    assert [f.title for f in found] == ([] if title is None else [title])
    assert [(f.key, f.step) for f in found] == ([] if title is None else [("crash:3", 1)])
    assert make(crash=False).end(1, BEGAN_S, preempting=False) == []
