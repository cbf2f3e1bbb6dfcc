"""A user's rule on a metric: "eval/accuracy < 0.5 for 3 after 1000"."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fasttrack.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_RULE = re.compile(
    r"(?P<metric>\S.*?)\s*(?P<comparison><=|>=|==|!=|<|>)\s*(?P<number>[-+]?[\w.+-]+)"
    r"(?:\s+for\s+(?P<rows>\d{1,9}))?(?:\s+after\s+(?P<step>\d{1,18}))?"
)
_FORM = "METRIC < NUMBER, with one of < <= > >= == !=, then, if wanted, 'for ROWS', 'after STEP'"


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition on one metric."""

    text: str
    """As the user wrote it, blanks aside."""
    metric: str
    comparison: str
    number: float
    rows: int = 1
    """In how many of the metric's rows, one after the other, it must hold."""
    after_step: int | None = None
    """Only rows of later steps count; None: all do."""

    def holds(self, value: float) -> bool:
        """Return whether a value meets the condition."""
        return _COMPARISONS[self.comparison](value, self.number)


def parse_rule(text: str, source: str) -> Rule:
    """Return the rule that `text` spells.

    Args:
        text: such as "train/grad_norm > 100 for 10".
        source: where it stands, for the message.

    Raises:
        ConfigurationError: it is no rule.
    """
    found = _RULE.fullmatch(text.strip())
    if found is None:
        raise ConfigurationError(f"{source}: {text!r} is no rule; write {_FORM}")
    try:
        number = float(found["number"])
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise ConfigurationError(
            f"{source}: {found['number']!r} in {text!r} is no number that can be compared with; "
            "what is not finite is told without a rule (non_finite)"
        )
    rows = int(found["rows"] or 1)
    if rows < 1:
        raise ConfigurationError(f"{source}: {text!r} must hold for at least one row")
    return Rule(
        text=" ".join(text.split()),
        metric=found["metric"],
        comparison=found["comparison"],
        number=number,
        rows=rows,
        after_step=None if found["step"] is None else int(found["step"]),
    )
