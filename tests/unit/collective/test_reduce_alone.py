"""`reduce` and `reduce_grad_norm` where there is one rank: nobody to wait for, the same results."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from support.journals import read_rows
from support.runs import make_tracker

from fasttrack import ExperimentTracker, Options
from fasttrack.collective.packet import OPS
from fasttrack.collective.roll_call import RollCall

JOURNAL_ONLY = Options(backends=("none",))


@pytest.fixture
def inert() -> ExperimentTracker:
    """As on a rank that does not record."""
    return ExperimentTracker(enabled=False)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(
    "value", [1.5, 2, torch.tensor(1.5), torch.tensor([[2.5]], dtype=torch.bfloat16)]
)
def test_alone_a_value_is_what_it_was(inert: ExperimentTracker, value: Any, op: str) -> None:
    """A tensor of no dimensions, whatever the value was, and whatever is done with several."""
    reduced = inert.reduce(value, op)

    assert isinstance(reduced, torch.Tensor)
    assert (reduced.shape, reduced.requires_grad) == ((), False)
    assert reduced.item() == float(value)


def test_several_values_keep_their_names_and_order(inert: ExperimentTracker) -> None:
    """They travel together, and come back as they came."""
    weight = torch.nn.Parameter(torch.tensor(3.0))
    reduced = inert.reduce({"b": weight, "a": 1, "c": 0.5})

    assert {name: value.item() for name, value in reduced.items()} == {"b": 3.0, "a": 1.0, "c": 0.5}
    assert inert.reduce({}) == {}


def test_what_nobody_has_and_what_is_no_number_is_nan(
    inert: ExperimentTracker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another rank may wait for this one: it takes part, and says what is wrong."""
    reduced = inert.reduce({"none": None, "text": "a", "many": torch.ones(3), "good": 1.0})

    assert [name for name, value in reduced.items() if math.isnan(value)] == [
        *("none", "text", "many")
    ]
    said = capsys.readouterr().err
    assert "text: a str 'a' is not one real number" in said
    assert "many: a tensor of shape (3,) is not one number" in said
    assert "none" not in said


def test_a_wrong_argument_raises_nothing_and_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """And counted, where there is a run."""
    with make_tracker(options=JOURNAL_ONLY) as tracker:
        assert tracker.reduce(1.0, "median").isnan()
        assert tracker.reduce({"a": 1.0}, group="all")["a"].isnan()
        assert tracker.reduce_grad_norm(3).isnan()
        assert tracker.reduce_grad_norm([torch.nn.Linear(1, 1), None]).isnan()

    said = capsys.readouterr().err
    assert "op must be one of mean, sum, max, min, norm, not str 'median'" in said
    assert "a: group must be a ProcessGroup or a DeviceMesh, not str 'all'" in said
    for kind in ("int", "list"):
        assert f"model must be a torch.nn.Module, several, or their parameters, not {kind}" in said
    assert tracker.stats().refused == 4


def test_the_norm_of_ordinary_gradients_is_torchs(inert: ExperimentTracker) -> None:
    """Of a model, of several (each parameter once), of parameters; 0 where there are none."""
    first, second = torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)
    assert inert.reduce_grad_norm(first) == 0.0
    second(first(torch.ones(5, 3))).sum().backward()
    parameters = [*first.parameters(), *second.parameters()]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    for model in (torch.nn.Sequential(first, second), [first, second, first], parameters):
        assert inert.reduce_grad_norm(model).item() == pytest.approx(norm.item(), rel=1e-6)


def test_what_could_not_be_reduced_is_left_out_with_what_is_made_of_it() -> None:
    """A loop computes with it and goes on; no row has a NaN that nobody measured."""
    with make_tracker(options=JOURNAL_ONLY) as tracker:
        unknown = tracker.reduce(1.0, "median")
        tracker.log_training_step(unknown, 0, grad_norm=unknown * 2, extra={"a": 1.0})
        tracker.log_metrics({"half": unknown / 2, "b": 2.0}, 0)
    directory = tracker.get_run_dir()
    assert directory is not None

    logged = {name: v for row in read_rows(directory) for name, v in row.values.items()}
    assert logged == {"a": 1.0, "b": 2.0}
    assert tracker.stats().refused == 4


@pytest.mark.parametrize("mark", ["ds_id", "_hp_mapping"])
def test_what_keeps_its_shards_to_itself_is_refused(
    inert: ExperimentTracker, mark: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """ZeRO marks the parameters that it has partitioned, and knows the norm itself."""
    model = torch.nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    setattr(model.weight, mark, 1)

    assert inert.reduce_grad_norm(model).isnan()
    assert "pass the engine as model" in capsys.readouterr().err


def test_a_copy_reduces_too() -> None:
    """A tracker is copied and pickled with what holds it, before and after its first call."""
    with make_tracker(options=JOURNAL_ONLY) as tracker:
        assert tracker.reduce(1.0) == 1.0
        pickled = pickle.dumps(tracker)
        assert copy.deepcopy(tracker).reduce(2.0) == 2.0
    assert pickle.loads(pickled).reduce(3.0) == 3.0
    assert tracker.reduce(4.0) == 4.0, "a collective has to be made after the end, too"


def test_names_that_change_do_not_fill_the_memory() -> None:
    """Of the same ranks a thousand are asked for; those of others are counted apart."""
    asked: list[str] = []
    roll_call = RollCall(patience_s=1.0)

    def ask(members: str, name: str) -> str | None:
        return roll_call.why_not(members, name, lambda: asked.append(members))

    assert {ask(members, str(name)) for name in range(1500) for members in "ab"} == {None}
    assert (asked.count("a"), asked.count("b")) == (1000, 1000)
    assert ask("a", "0") is None
    assert ask("c", "0") is None
    assert len(asked) == 2001
