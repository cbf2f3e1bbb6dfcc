"""Copies of a tracker: itself in its own process, inert in another, whatever holds it."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest
import torch
from support.journals import read_rows
from support.runs import HANG_GUARD_S, TAGS, make_tracker, script_environment
from support.trackers import journal_only

from fasttrack import ExperimentTracker
from fasttrack.audit.findings import Findings
from fasttrack.audit.session import Audit
from fasttrack.testing import memory_tracker

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.trackers import Trackers

    from fasttrack.journal.rows import Row


class Model(torch.nn.Module):
    """A model that logs by itself."""

    def __init__(self, tracker: ExperimentTracker) -> None:
        """Hold the tracker, and one of its methods."""
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.tracker = tracker
        self.log = tracker.log_metrics


@dataclass
class State:
    """What a trainer keeps."""

    tracker: ExperimentTracker
    step: int = 0


class OwnTracker(ExperimentTracker):
    """A subclass with state of its own, which refers back to it."""

    def __init__(self, **arguments: Any) -> None:
        """Keep something."""
        super().__init__(**arguments)
        self.stage = "warm-up"
        self.log_again = self.log_metrics


def rows(tracker: ExperimentTracker) -> list[Row]:
    """Return what a tracker has logged."""
    directory = tracker.get_run_dir()
    assert directory is not None
    return read_rows(directory)


def by_torch(value: Any) -> Any:
    """Save and load as a checkpoint."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def by_pickle(value: Any) -> Any:
    """Pickle and unpickle."""
    return pickle.loads(pickle.dumps(value))


def by_cloudpickle(value: Any) -> Any:
    """As Ray and joblib do."""
    return pickle.loads(cloudpickle.dumps(value))


def elsewhere(value: Any, question: str, pickler: Any = pickle) -> str:
    """Return what another process prints that unpickles `value` as `it` and runs `question`."""
    result = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            "import pickle, sys; sys.path.append(sys.argv[1]); it = pickle.load(sys.stdin.buffer)\n"
            + question,
            str(Path(__file__).parent),
        ],
        input=pickler.dumps(value),
        capture_output=True,
        timeout=HANG_GUARD_S,
        env=script_environment(),
    )
    assert result.returncode == 0, result.stderr.decode()
    printed: bytes = result.stdout + result.stderr
    return printed.decode()


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, by_pickle, by_cloudpickle, by_torch]
)
def test_a_copy_in_the_same_process_is_the_tracker(
    make: Trackers, duplicate: Callable[[Any], Any]
) -> None:
    """By any way, open or finished, and its methods log to the same run."""
    tracker = make()

    assert duplicate(tracker) is tracker
    duplicate(tracker.log_metrics)({"a": 1}, step=1)
    tracker.finish()

    assert duplicate(tracker) is tracker
    assert [row.step for row in rows(tracker)] == [1]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, by_pickle, by_cloudpickle, by_torch])
def test_what_holds_a_tracker_can_be_copied(
    make: Trackers, duplicate: Callable[[Any], Any]
) -> None:
    """A model (an EMA copy), a dataclass, a partial call: they share the one run."""
    tracker = make()
    model, state = Model(tracker), State(tracker)
    held = {"model": model, "state": state, "call": partial(tracker.log_metrics, step=3)}

    copied = duplicate(held)
    copied["model"].log({"a": 1}, step=1)
    copied["call"]({"a": 3})

    assert copied["model"] is not model
    assert copied["model"].layer is not model.layer
    assert copied["model"].tracker is copied["state"].tracker is tracker
    assert asdict(state)["tracker"] is tracker
    tracker.finish()
    assert [row.step for row in rows(tracker)] == [1, 3]


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_unpickled_in_another_process_it_is_inert(make: Trackers, pickler: Any) -> None:
    """It knows its run, answers every method, counts what is logged, and says so once."""
    tracker = make(name="nightly")
    log = tracker.log_metrics

    printed = elsewhere(
        {"tracker": tracker, "log": log},
        """
tracker, log = it["tracker"], it["log"]
assert log.__self__ is tracker
log({"a": 1}, step=1)
with tracker:
    tracker.log_training_step(1.0, 2)
    tracker.log_training_step(1.0, 3, model=None)
    tracker.log_config({})
    tracker.update_config({})
    tracker.log_checkpoint("x")
    with tracker.audit():
        pass
print(tracker.get_run_id(), tracker.get_run_name(), tracker.is_active(), tracker.is_offline())
print(tracker.get_run_dir(), tracker.get_run_url(), tracker.flush(), tracker.stats().late_calls)
assert pickle.loads(pickle.dumps(tracker)) is tracker
repr(tracker)
""",
        pickler,
    )

    one, two, *rest = printed.splitlines()
    assert one == f"{tracker.get_run_id()} nightly False True"
    assert two == "None None True 6"
    assert [line for line in rest if line.startswith("[ExperimentTracker]")] == [
        f"[ExperimentTracker] this process does not record the run {tracker.get_run_id()}: its "
        "tracker was made in another process (a DataLoader's worker?); what is logged here is "
        "ignored"
    ]
    tracker.finish()
    assert rows(tracker) == []


def test_it_comes_back_from_another_process_as_itself(make: Trackers) -> None:
    """A worker that returns what it was given, as pools do."""
    tracker = make()

    returned = elsewhere(tracker, "print(pickle.dumps(it).hex())")

    assert pickle.loads(bytes.fromhex(returned)) is tracker


def test_an_inert_tracker_stays_silent_when_it_is_copied() -> None:
    """Of a rank that never was to record: no word in its DataLoader's workers."""
    tracker = make_tracker(enabled=False, resume_id="ab12")

    printed = elsewhere(tracker, "it.log_metrics({'a': 1}, 0); print(it.get_run_id())")

    assert copy.deepcopy(tracker) is tracker
    assert printed == "ab12\n"


def test_a_subclass_keeps_what_is_its_own() -> None:
    """Also what refers back to the tracker."""
    tracker = OwnTracker(tags=TAGS, options=journal_only())

    printed = elsewhere(
        tracker,
        "print(type(it).__name__, it.stage, it.log_again.__self__ is it)",
        cloudpickle,
    )
    tracker.finish()

    assert printed == "OwnTracker warm-up True\n"


def test_a_memory_tracker_takes_its_rows_along(tmp_path: Path) -> None:
    """`testing`'s tracker is as any; what has arrived can be looked at elsewhere."""
    with memory_tracker() as tracker:
        tracker.log_metrics({"a": 1.5}, step=4)
        assert len(tracker.rows) == 1
        assert copy.deepcopy(tracker) is tracker

        printed = elsewhere(
            tracker, "print([(r.step, r.values) for r in it.rows]); it.finish(); print(it.config)"
        )

        assert printed == "[(4, {'a': 1.5})]\n{}\n"
        tracker.log_metrics({"a": 2.5}, step=5)
    assert len(tracker.rows) == 2


def test_stats_and_audit_can_be_copied(make: Trackers) -> None:
    """What a tracker hands out goes where it goes."""
    tracker = make()
    stats, audit = tracker.stats(), tracker.audit()
    with audit:
        pass
    audit._found.add(("train.py", 7), "item", 0.5)

    for duplicate in (copy.deepcopy, by_pickle):
        assert duplicate(stats) == stats
    assert copy.deepcopy(audit) is copy.copy(audit) is audit
    copied = by_pickle(audit)
    assert isinstance(copied, Audit)
    assert isinstance(by_pickle(audit._found), Findings)
    assert copied.findings == audit.findings
    assert copied.wall_s == audit.wall_s
