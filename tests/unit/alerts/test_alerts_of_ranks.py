"""What is worth an alert of a job's ranks: each straggler once, what is missing once an attempt."""

from __future__ import annotations

import json
from typing import Any

from fasttrack.alerts.judge import Finding, Judge
from fasttrack.alerts.settings import AlertSettings
from fasttrack.journal.rows import Row
from fasttrack.journal.trouble import RanksStanding

_SLOW = "rank 2 (node7, GPU 2: NVIDIA H100)"
_WHAT = "it is at work of its own 74% of the time, the others 4%"


def make(**settings: Any) -> Judge:
    """Return a judge that has seen a row."""
    judge = Judge(AlertSettings(**settings))
    judge.begin(1)
    judge.see([Row(0, 120, 1e6, {"loss/total": 1.0})])
    return judge


def told(found: list[Finding]) -> list[tuple[str, str, str]]:
    """Return kind, title and text of each."""
    return [(each.kind, each.title, each.text) for each in found]


def again(judge: Judge) -> Judge:
    """Return a judge that goes on where another process left off."""
    later = Judge(AlertSettings())
    later.restore(json.loads(json.dumps(judge.state())))
    return later


def test_straggler_is_told_of_once_with_its_node_whatever_happens_then() -> None:
    """It recovers, it is slow again, delivery is started anew, the run is resumed."""
    judge = make()
    slow = RanksStanding(stragglers={_SLOW: _WHAT}, time_s=5.0)

    (found,) = judge.see_ranks(slow)

    assert (found.kind, found.level, found.title) == ("straggler", "WARN", "rank 2 is slow")
    assert found.text == f"{_SLOW} holds the other ranks up: {_WHAT}; its last step was 120"
    assert (found.step, found.time_s) == (120, 5.0)
    assert found.key == "straggler:rank 2 (node7, GPU 2 NVIDIA H100)"
    assert judge.see_ranks(RanksStanding()) == judge.see_ranks(slow) == []
    later = again(judge)
    assert later.see_ranks(slow) == []
    later.begin(2)
    assert later.see_ranks(slow) == []
    both = RanksStanding(stragglers={_SLOW: _WHAT, "rank 3 (node8)": _WHAT})
    assert [each.title for each in later.see_ranks(both)] == ["rank 3 is slow"]


def test_node_that_is_not_heard_of_is_one_alert_and_another_in_the_next_attempt() -> None:
    """However many ranks it has; one more that follows is news, one that comes back is none."""
    judge = make()
    node = tuple(f"rank {rank} (node1)" for rank in range(8, 24))

    found = judge.see_ranks(RanksStanding(missing=node, missing_ranks=100))

    ((kind, title, text),) = told(found)
    assert (kind, title) == ("missing", "100 ranks are missing")
    assert text.startswith("nothing is heard of rank 8 (node1), rank 9 (node1), rank 10 (node1), ")
    assert text.endswith("rank 15 (node1) and 92 more; its last step was 120")
    assert judge.see_ranks(RanksStanding(missing=node[1:], missing_ranks=99)) == []
    later = again(judge)
    more = RanksStanding(missing=(*node, "rank 30 (node3)"), missing_ranks=17)
    assert told(later.see_ranks(more)) == [
        (
            "missing",
            "rank 30 is missing",
            "nothing is heard of rank 30 (node3); its last step was 120",
        )
    ]
    later.begin(2)
    (found_again,) = later.see_ranks(RanksStanding(missing=node[:1], missing_ranks=1))
    assert (found_again.title, found_again.key) == ("rank 8 is missing", "missing:2 rank 8 (node1)")
    assert found_again.key != found[0].key


def test_each_may_be_off_and_is_off_for_a_run_that_knew_nothing_of_it() -> None:
    """An older header does not name them."""
    both = RanksStanding(stragglers={_SLOW: _WHAT}, missing=("rank 3",), missing_ranks=1)

    assert [each.kind for each in make().see_ranks(both)] == ["straggler", "missing"]
    assert [each.kind for each in make(straggler=False).see_ranks(both)] == ["missing"]
    assert [each.kind for each in make(missing=False).see_ranks(both)] == ["straggler"]
    header = AlertSettings().as_entry()
    assert AlertSettings.of_entry(header) == AlertSettings()
    del header["straggler"], header["missing"]
    older = AlertSettings.of_entry(header)
    assert older is not None
    assert (older.straggler, older.missing, older.spike) == (False, False, True)
