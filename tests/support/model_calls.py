"""Calls of a tracker as values: what is passed, how it is passed, and what must come of it.

Whatever a call is passed is made anew when it is made, and may be spoiled right behind it: a
trainer goes on with its tensors, dicts and optimizers.
"""

from __future__ import annotations

from collections import OrderedDict, UserDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from support.model import Model, Number, Refused

if TYPE_CHECKING:
    from fasttrack import ExperimentTracker

Spoil = Callable[[], object]
_SHOWN = 12  # metrics of a mapping


@dataclass(frozen=True, repr=False)
class Value:
    """One value and what becomes of it."""

    text: str
    outcome: Number | Refused
    make: Callable[[], Any]
    spoil: Callable[[Any], object] | None = None
    none: bool = False

    def __repr__(self) -> str:
        return self.text

    @property
    def made(self) -> Any:
        """None where it is None: as an argument it is then left out, not refused."""
        return None if self.none else self

    def build(self, spoils: list[Spoil]) -> Any:
        """Return it, and note how it is spoiled."""
        made, spoil = self.make(), self.spoil
        if spoil is not None:
            spoils.append(lambda: spoil(made))
        return made


class _Breaks(Mapping[Any, Any]):
    """Hold what is given, and raise behind the last."""

    def __init__(self, items: dict[Any, Any]) -> None:
        self._items = items

    def __getitem__(self, name: Any) -> Any:
        return self._items[name]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        yield from self._items
        raise RuntimeError("broke")


def _spoil(mapping: Any) -> None:
    mapping.clear()
    mapping["spoiled"] = -1.0


MAPPINGS: dict[str, Callable[[dict[Any, Any]], Any]] = {
    "dict": lambda items: items,
    "OrderedDict": OrderedDict,
    "UserDict": UserDict,
    "MappingProxyType": MappingProxyType,
    "breaks": _Breaks,
}


@dataclass(frozen=True, repr=False)
class Mixed:
    """A mapping of names to values and further mappings, or what is passed in place of one."""

    items: tuple[tuple[Any, Value | Mixed], ...] | None
    kind: str = "dict"
    junk: Any = None

    def __repr__(self) -> str:
        if self.items is None:
            return repr(self.junk)
        more = f" and {len(self.items)} in all" if len(self.items) > _SHOWN else ""
        return f"{self.kind} {dict(self.items[:_SHOWN])}{more}"

    @property
    def breaks(self) -> bool:
        """Whether reading it raises in the end."""
        return self.kind == "breaks"

    def build(self, spoils: list[Spoil]) -> Any:
        """Return it, and note how it is spoiled."""
        if self.items is None:
            return self.junk
        inner = {name: value.build(spoils) for name, value in self.items}
        spoils.append(lambda: _spoil(inner))
        made = MAPPINGS[self.kind](inner)
        if made is not inner and hasattr(made, "clear"):
            spoils.append(lambda: _spoil(made))
        return made


@dataclass(frozen=True)
class Step:
    """What is passed as `step`; its number is None where it is no integer."""

    passed: Any
    number: int | None


@dataclass(frozen=True)
class Size:
    """What is passed as `batch_size`; its number is None where it is none."""

    passed: Any
    number: float | None


@dataclass(frozen=True, repr=False)
class Told:
    """What is passed as `optimizer`, `model` or `scaler`, and the metrics that it must give."""

    text: str
    tells: dict[str, Number | Refused]
    make: Callable[[list[Spoil]], Any]
    tells_of_scale: dict[str, Number | Refused] = field(default_factory=dict)
    """What an optimizer gives where no scaler is passed."""
    live: bool = False
    """Of a scaler: whether gradients are multiplied by its scale."""

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """One call of `log_training_step`."""

    step: Step
    loss: Value | None = None
    batch_size: Size | None = None
    optimizer: Told | None = None
    model: Told | None = None
    scaler: Told | None = None
    loss_ar: Value | None = None
    loss_fm: Value | None = None
    grad_norm: Value | None = None
    extra: Mixed | None = None

    def perform(self, tracker: ExperimentTracker, spoils: list[Spoil]) -> None:
        """Make it."""
        told = {
            name: given.make(spoils)
            for name in ("optimizer", "model", "scaler")
            if (given := getattr(self, name)) is not None
        }
        values = {
            name: value.build(spoils)
            for name in ("loss_ar", "loss_fm", "grad_norm", "extra")
            if (value := getattr(self, name)) is not None
        }
        tracker.log_training_step(
            None if self.loss is None else self.loss.build(spoils),
            self.step.passed,
            None if self.batch_size is None else self.batch_size.passed,
            **told,
            **values,
        )

    def expect(self, model: Model) -> None:
        """Have the model expect what it leaves."""
        model.training_step(self)


@dataclass(frozen=True)
class Metrics:
    """One call of `log_metrics`."""

    metrics: Mixed
    step: Step | None

    def perform(self, tracker: ExperimentTracker, spoils: list[Spoil]) -> None:
        """Make it."""
        metrics = self.metrics.build(spoils)
        if self.step is None:
            tracker.log_metrics(metrics)
        else:
            tracker.log_metrics(metrics, self.step.passed)

    def expect(self, model: Model) -> None:
        """Have the model expect what it leaves."""
        model.metrics(self)


@dataclass(frozen=True)
class Pauses:
    """Calls of `pause`, one within the other."""

    depth: int

    def perform(self, tracker: ExperimentTracker, spoils: list[Spoil]) -> None:
        """Make them."""
        with tracker.pause():
            if self.depth > 1:
                Pauses(self.depth - 1).perform(tracker, spoils)
            else:
                sum(range(1000))  # so that it takes some time on any clock

    def expect(self, model: Model) -> None:
        """Have the model expect what they leave."""
        for _ in range(self.depth):
            model.pause()


@dataclass(frozen=True)
class Config:
    """One call of `update_config`; no dict is none."""

    config: Any

    def perform(self, tracker: ExperimentTracker, spoils: list[Spoil]) -> None:
        """Make it."""
        passed = dict(self.config) if isinstance(self.config, dict) else self.config
        tracker.update_config(passed)
        if isinstance(passed, dict):
            spoils.append(passed.clear)

    def expect(self, model: Model) -> None:
        """Have the model expect what it leaves."""
        model.update_config(self)


@dataclass(frozen=True)
class Flush:
    """One call of `flush`."""

    def perform(self, tracker: ExperimentTracker, spoils: list[Spoil]) -> None:
        """Make it."""
        assert tracker.flush(30.0)

    def expect(self, model: Model) -> None:
        """Nothing comes of it that would not come anyway."""


Call = TrainingStep | Metrics | Pauses | Config | Flush


class TwoWeights(torch.nn.Module):
    """The smallest model whose gradients have an exact norm: 3, 4 and 5 times a number."""

    def __init__(self, times: int, dtype: torch.dtype, *, gradients: bool = True) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.zeros(1, dtype=dtype))
        self.b = torch.nn.Parameter(torch.zeros(1, dtype=dtype))
        self.idle = torch.nn.Parameter(torch.zeros(3, dtype=dtype))
        if gradients:
            self.a.grad = torch.full((1,), 3.0 * times, dtype=dtype)
            self.b.grad = torch.full((1,), -4.0 * times, dtype=dtype)

    def spoil(self) -> None:
        """Clear the gradients in place, as `zero_grad(set_to_none=False)` does."""
        for weight in (self.a, self.b):
            if weight.grad is not None:
                weight.grad.zero_()


class BrokenModel(torch.nn.Module):
    """A model that cannot tell its parameters."""

    def parameters(self, recurse: bool = True) -> Any:
        """Raise."""
        raise RuntimeError("no parameters today")
