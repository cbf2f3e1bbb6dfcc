"""What the closing lines say of what was lost."""

from __future__ import annotations

import dataclasses

from fasttrack.stats import Stats


def test_where_nothing_was_lost_nothing_is_said() -> None:
    """Rows that came out of order, or late calls, are no loss."""
    stats = dataclasses.replace(Stats.of_nothing(), out_of_order=3, rows_written=5)

    assert stats.describe_losses() == []


def test_lost_rows_are_counted_by_what_lost_them() -> None:
    """Each cause has its number, beside their sum."""
    stats = dataclasses.replace(Stats.of_nothing(), dropped=3, journal_errors=2)

    assert stats.describe_losses() == [
        "5 rows were lost (3 x the ring was full; 2 x the disk took none); see stats()"
    ]


def test_refused_values_and_ignored_calls_are_counted_by_reason() -> None:
    """The most frequent first; of many reasons, the first six."""
    reasons = {f"m{number}: no": 100 - number for number in range(10)}
    (line,) = dataclasses.replace(Stats.of_nothing(), reasons=reasons).describe_losses()

    assert line.startswith(f"not logged, {sum(reasons.values())} in all: 100 x m0: no; 99 x m1: no")
    assert line.endswith("95 x m5: no; 4 further reasons: see stats().reasons")
    assert "m6" not in line
