"""What a tracker says of how its run is shown, and its last word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.runs import journal_entries, journal_rows

from fasttrack.journal.entries import Page, decode

if TYPE_CHECKING:
    from pathlib import Path

    from support.trackers import Trackers


def test_how_a_run_is_shown_is_written_without_secrets(make: Trackers, tmp_path: Path) -> None:
    """Name, tags, summary and definitions, for delivery to tell the run's page."""
    tracker = make()
    tracker.describe(name="new", tags=["a"], summary={"best": 0.5, "api_key": "x" * 12})
    tracker.describe(metrics={"val/*": {"step_metric": "epoch"}})
    tracker.finish()

    first, second = journal_entries(tmp_path, tracker.get_run_id(), Page)
    assert (first.name, first.notes, first.tags) == ("new", None, ("a",))
    assert first.summary["best"] == 0.5
    assert "x" * 12 not in str(first.summary)
    assert second.metrics == {"val/*": {"step_metric": "epoch"}}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"name": 5}, "name must be text, not int"),
        ({"notes": ["a"]}, "notes must be text, not list"),
        ({"tags": 7}, "tags must be a list of texts, not int"),
        ({"tags": ["a", 1]}, "tags must be a list of texts, not list"),
        ({"summary": 3.0}, "summary must be a mapping by name, not float"),
        ({"metrics": {"loss": 1}}, "metrics: what is said of 'loss' must be a mapping, not int"),
    ],
)
def test_what_cannot_be_shown_is_said(
    make: Trackers, tmp_path: Path, capsys: pytest.CaptureFixture[str], told: Any, said: str
) -> None:
    """By its argument; nothing is raised, and nothing written."""
    tracker = make()
    tracker.describe(**told)
    tracker.finish()

    assert said in capsys.readouterr().err
    assert tracker.stats().failed_calls == 1
    assert journal_entries(tmp_path, tracker.get_run_id(), Page) == []


def test_a_line_that_others_have_written_may_hold_anything() -> None:
    """It counts as damaged."""
    for told in ('"tags":[1]', '"metrics":{"loss":1}'):
        with pytest.raises(ValueError, match=r"texts only|no mapping"):
            decode(b'{"kind":"page",%b,"time":1.0}' % told.encode())


def test_what_was_kept_back_is_logged_at_the_end(make: Trackers, tmp_path: Path) -> None:
    """An adapter that puts rows together has an open one; it is asked once."""
    tracker = make()
    tracker.before_end(lambda: tracker.log_metrics({"a": 1}, 7))
    tracker.finish()
    tracker.finish()

    assert [row.values for row in journal_rows(tmp_path, tracker.get_run_id())] == [{"a": 1}]
    assert make(resume_id=tracker.get_run_id(), tags=None).get_earlier_step() == 7
