"""Records become rows: mixed batches, the first bad loss, and one bad tensor among good ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fasttrack.hotpath.capture import Capture
from fasttrack.hotpath.gradients import GradientSource
from fasttrack.hotpath.records import GRAD_NORM, LOSS, Gradients, Record, Scalar
from fasttrack.notices import Notices
from fasttrack.worker.resolve import Resolver


class Dead(torch.Tensor):
    """A tensor on the CPU whose number cannot be had."""

    def item(self) -> Any:
        """Fail as a device that was lost fails: with a message of several lines."""
        raise RuntimeError("the device is lost\nand here follows a page of advice")


class Setup:
    """A resolver with its capture and notices."""

    def __init__(self, mode: str = "reference") -> None:
        """Capture by `mode`; references reach the worker as tensors even on the CPU."""
        self.notices = Notices()
        self.capture = Capture(mode)
        self.gradients = GradientSource("worker", 2**30, self.notices.warn)
        self.resolver = Resolver(self.capture, self.gradients, self.notices)

    def record(self, step: int, gradients: Gradients | None = None, **metrics: Any) -> Record:
        """Return a record of `metrics`, as the tracker would make it."""
        return self.record_mapping(step, metrics, gradients)

    def record_mapping(
        self, step: int, metrics: dict[str, Any], gradients: Gradients | None = None
    ) -> Record:
        """Return a record of metrics whose names are no identifiers."""
        pending = self.capture.mapping(metrics, self.notices.refuse)
        return Record(step, 100.0 + step, metrics, pending, None, gradients, ())

    def loss(self, step: int, value: Any) -> Record:
        """Return a record of a loss."""
        return self.record_mapping(step, {LOSS: value})

    def resolve(self, *records: Record) -> list[dict[str, Scalar]]:
        """Return the values of the rows that `records` become."""
        return [values for _, _, values, *_ in self.resolver.resolve(list(records))]


@pytest.fixture
def setup() -> Setup:
    """A resolver of tensors."""
    return Setup()


def test_a_mixed_batch_resolves_in_order(setup: Setup) -> None:
    """Numbers, tensors of several dtypes and gradients, in one batch."""
    gradient = torch.tensor([3.0, 4.0])
    gradients = Gradients([gradient], [gradient._version], frozenset([gradient.device]))
    records = [
        setup.record(1, a=1.5, b=torch.tensor(2.5)),
        setup.record(2, a=torch.tensor(3, dtype=torch.int64), b=torch.tensor(0.5).bfloat16()),
        setup.record(3),
        setup.record(4, gradients, a=torch.tensor(7.0, dtype=torch.float64), c=8),
        setup.record(5, a=torch.tensor(9.0)),
    ]
    rows = setup.resolver.resolve(list(records))

    assert [(step, time_s) for step, time_s, *_ in rows] == [(n, 100.0 + n) for n in range(1, 6)]
    assert [values for _, _, values, *_ in rows] == [
        {"a": 1.5, "b": 2.5},
        {"a": 3, "b": 0.5},
        {},
        {"a": 7.0, "c": 8, GRAD_NORM: 5.0},
        {"a": 9.0},
    ]
    assert setup.notices.counts() == {}


def test_metrics_keep_the_order_in_which_they_were_given(setup: Setup) -> None:
    """Resolving in groups does not reorder a row."""
    (values,) = setup.resolve(
        setup.record(1, z=torch.tensor(1), a=2.0, m=torch.tensor(3.0), b=torch.tensor(4))
    )

    assert list(values) == ["z", "a", "m", "b"]


def test_an_empty_batch_gives_no_rows(setup: Setup) -> None:
    """Nothing in, nothing out."""
    assert setup.resolver.resolve([]) == []


def test_bools_become_ints(setup: Setup) -> None:
    """Of tensors as of numbers."""
    (values,) = setup.resolve(setup.record(1, a=torch.tensor(True), b=torch.tensor(False), c=True))

    assert values == {"a": 1, "b": 0, "c": 1}
    assert {type(value) for value in values.values()} == {int}


def test_one_unreadable_tensor_takes_no_other_along(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused by name; its row and its neighbours in the same group are read."""
    dead = torch.tensor(1.0).as_subclass(Dead)
    records = [
        setup.record(1, a=torch.tensor(1.0)),
        setup.record(2, a=torch.tensor(2.0), dead=dead, b=5),
        setup.record(3, a=torch.tensor(3.0)),
    ]
    rows = setup.resolve(*records)

    assert rows == [{"a": 1.0}, {"a": 2.0, "b": 5}, {"a": 3.0}]
    assert setup.notices.counts() == {"refused": 1}
    said = capsys.readouterr().err
    assert "dead: its tensor could not be read: the device is lost" in said
    assert "advice" not in said


def test_an_unreadable_loss_is_not_taken_for_a_non_finite_one(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row that lost its loss is a row without one."""
    rows = setup.resolve(setup.loss(1, torch.tensor(1.0).as_subclass(Dead)))

    assert rows == [{}]
    assert "became" not in capsys.readouterr().err


def test_a_stale_reference_takes_no_other_along(setup: Setup) -> None:
    """Only the tensor that was changed is dropped; each is counted."""
    changed, kept = torch.tensor(1.0), torch.tensor(2.0)
    records = [
        setup.record(1, changed=changed, kept=kept),
        setup.record(2, changed=changed, kept=kept, plain=3.0),
    ]
    changed += 1
    rows = setup.resolve(*records)

    assert rows == [{"kept": 2.0}, {"kept": 2.0, "plain": 3.0}]
    assert setup.notices.counts() == {"stale": 2}
    assert setup.capture.snapshot_always == {"changed"}


def test_a_tensor_that_is_logged_twice_is_read_twice(setup: Setup) -> None:
    """One tensor under two names, and in two records."""
    tensor = torch.tensor(1.0)
    rows = setup.resolve(setup.record(1, a=tensor, b=tensor), setup.record(2, a=tensor))

    assert rows == [{"a": 1.0, "b": 1.0}, {"a": 1.0}]


def test_stale_gradients_cost_only_the_norm(setup: Setup) -> None:
    """The row is kept without it."""
    gradient = torch.ones(3)
    gradients = Gradients([gradient], [gradient._version], frozenset([gradient.device]))
    record = setup.record_mapping(1, {LOSS: 0.5}, gradients)
    gradient.zero_()
    rows = setup.resolve(record)

    assert rows == [{LOSS: 0.5}]
    assert setup.notices.counts() == {"stale": 1}


def test_the_cpu_sets_no_cuda_index(setup: Setup) -> None:
    """GPU statistics then look for the device themselves."""
    setup.resolve(setup.record(1, a=torch.tensor(1.0)))

    assert setup.resolver.cuda_index is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_tensors_tell_the_device(setup: Setup) -> None:
    """The GPU whose statistics are wanted is the one the loss is on."""
    rows = setup.resolve(setup.record(1, a=torch.tensor(1.0, device="cuda:0")))

    assert rows == [{"a": 1.0}]
    assert setup.resolver.cuda_index == 0
