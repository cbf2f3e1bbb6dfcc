"""A user's rules: what is one, and when it says something."""

from __future__ import annotations

import math

import pytest

from fasttrack.alerts.detectors import RuleWatch
from fasttrack.alerts.rules import Rule, parse_rule
from fasttrack.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("eval/loss > 5", Rule("eval/loss > 5", "eval/loss", ">", 5.0)),
        ("a<=-1e-3", Rule("a<=-1e-3", "a", "<=", -0.001)),
        ("lm loss  !=  0 for 3", Rule("lm loss != 0 for 3", "lm loss", "!=", 0.0, 3)),
        ("acc < 0.5 after 1000", Rule("acc < 0.5 after 1000", "acc", "<", 0.5, 1, 1000)),
        ("x >= inf for 2 after 0", Rule("x >= inf for 2 after 0", "x", ">=", math.inf, 2, 0)),
    ],
)
def test_a_rule_is_metric_comparison_number_and_when(text: str, rule: Rule) -> None:
    """Blanks do not matter but in the metric's name."""
    assert parse_rule(text, "here") == rule


@pytest.mark.parametrize(
    "text", ["", "loss", "loss > ", "> 5", "loss > five", "loss > nan", "loss > 5 for 0", "a = 5"]
)
def test_what_is_no_rule_is_refused_and_says_how_to_write_one(text: str) -> None:
    """With the place where it stands."""
    with pytest.raises(ConfigurationError, match="FASTTRACK_ALERTS: "):
        parse_rule(text, "FASTTRACK_ALERTS")


def steps_told(watch: RuleWatch, values: list[float], first: int = 0) -> list[int]:
    """Return the steps at which a rule said something of `values`."""
    return [s for s, value in enumerate(values, first) if watch.see(s, value) is not None]


def test_a_rule_must_hold_for_rows_one_after_the_other() -> None:
    """And says so once, as long as it holds, whatever the value does for a few rows."""
    watch = RuleWatch(parse_rule("a > 4 for 3", "here"))

    assert steps_told(watch, [5, 5, 1, 5, 5, 5, 5, 1, 5, 5, 5, *[1.0] * 60, 5, 5, 5]) == [5, 73]


def test_a_rule_says_nothing_of_steps_up_to_its_own_and_of_nan() -> None:
    """NaN is neither above nor below."""
    watch = RuleWatch(parse_rule("a < 4 after 2", "here"))

    assert steps_told(watch, [1, 1, math.nan, math.nan, 1]) == [4]


def test_steps_that_a_resumed_attempt_trains_again_are_no_news() -> None:
    """What it knows goes on in another process; only a later step is another matter."""
    watch = RuleWatch(parse_rule("a > 4", "here"))
    assert steps_told(watch, [1, 1, 5]) == [2]
    later = RuleWatch(parse_rule("a > 4", "here"))
    later.restore(watch.state())
    later.rewind(0)

    assert steps_told(later, [1, 1, 5]) == []
    later.rewind(1)
    assert steps_told(later, [1, 1, 5], first=1) == [3]
