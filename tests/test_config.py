"""Bringing any training configuration into a form that JSON and W&B hold."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import enum
import math
import types
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import orjson
import pytest
import torch

from fasttrack.context.config import to_plain


class Color(enum.Enum):
    """A plain enum."""

    RED = 1


class Shade(str, enum.Enum):
    """An enum whose members are strings."""

    DARK = "dark"


class Level(enum.IntEnum):
    """An enum whose members are numbers."""

    HIGH = 3


class Point(collections.namedtuple("Point", "x y")):
    """A named tuple."""


@dataclasses.dataclass
class Optimizer:
    """A dataclass."""

    lr: float
    betas: tuple[float, ...] = (0.9, 0.95)


@dataclasses.dataclass(frozen=True, slots=True)
class Training:
    """A frozen dataclass without a `__dict__`, with another inside."""

    optimizer: Optimizer
    out: Path = Path("/tmp/x")


class Stubborn:
    """An object that cannot say what it is."""

    def __repr__(self) -> str:
        raise RuntimeError("not built yet")


def written(value: Any) -> Any:
    """Return `value` as the journal's reader gets it back."""
    return orjson.loads(orjson.dumps(to_plain(value)))


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        ("text ü", "text ü"),
        (3, 3),
        (0.1, 0.1),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (2**63, "9223372036854775808"),
        (10**40, "1" + "0" * 40),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        ((1, (2, 3)), [1, [2, 3]]),
        ({5}, [5]),
        (frozenset({"a"}), ["a"]),
        (Point(1, 2), [1, 2]),
        ({"a": {"b": [{"c": (1,)}]}}, {"a": {"b": [{"c": [1]}]}}),
        ({1: "a", None: "b", Color.RED: "c"}, {"1": "a", "None": "b", "Color.RED": "c"}),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (Optimizer(0.1), {"lr": 0.1, "betas": [0.9, 0.95]}),
        (
            Training(Optimizer(0.1)),
            {"optimizer": {"lr": 0.1, "betas": [0.9, 0.95]}, "out": "/tmp/x"},
        ),
        (Color.RED, "Color.RED"),
        (Shade.DARK, "dark"),
        (Level.HIGH, 3),
        (PurePosixPath("a/b"), "a/b"),
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.int64(7), 7),
        (np.uint64(2**64 - 1), "18446744073709551615"),
        (np.bool_(True), True),
        (np.str_("text"), "text"),
        (np.float16(np.nan), "nan"),
        (np.array(3), 3),
        (np.array([1, 2]), "[1 2]"),
        (torch.bfloat16, "torch.bfloat16"),
        (torch.device("cpu"), "cpu"),
        (torch.tensor(1.5), "tensor(1.5000)"),
        (torch.Size([2, 3]), [2, 3]),
        (b"bytes", "b'bytes'"),
        (1 + 2j, "(1+2j)"),
        (range(3), "range(0, 3)"),
    ],
    ids=repr,
)
def test_value_takes_its_plain_form(value: Any, plain: Any) -> None:
    """What JSON knows is kept, what it does not is written as text."""
    result = to_plain(value)

    assert result == plain
    assert type(result) in (type(None), bool, str, int, float, list, dict, np.str_, Shade)
    assert written(value) == plain


@pytest.mark.parametrize(
    ("value", "start"),
    [
        (Optimizer, "<class "),
        (argparse.Namespace(lr=0.1), "Namespace(lr=0.1"),
        (torch.nn.Linear(1, 1), "Linear(in_features=1"),
        (torch.zeros(2, requires_grad=True), "tensor([0., 0."),
        (len, "<built-in function len"),
    ],
    ids=["class", "namespace", "module", "tensor", "function"],
)
def test_objects_are_written_as_their_text(value: Any, start: str) -> None:
    """A class given where an instance is usual, a module, a function: named, not refused."""
    assert to_plain({"x": value})["x"].startswith(start)


def test_configuration_itself_is_not_changed() -> None:
    """The caller's dict is the one that trains."""
    config = {"a": {"b": (1, 2)}, "s": {1}}

    to_plain(config)

    assert config == {"a": {"b": (1, 2)}, "s": {1}}


def test_same_object_twice_is_no_recursion() -> None:
    """Shared sub-configurations are common and written twice."""
    shared = {"lr": 0.1}

    assert to_plain([shared, shared]) == [{"lr": 0.1}, {"lr": 0.1}]


def self_holding(kind: str) -> Any:
    """Return a container that holds itself."""
    if kind == "dict":
        config: dict[str, Any] = {"lr": 0.1}
        config["self"] = config
        return config
    if kind == "list":
        items: list[Any] = [1]
        items.append(items)
        return items
    if kind == "twice":  # every level doubles what a mere limit of depth lets through
        config = {"lr": 0.1}
        config["left"] = config["right"] = config
        return config
    optimizer = Optimizer(0.1)
    optimizer.betas = (optimizer,)  # type: ignore[assignment]
    return optimizer


@pytest.mark.parametrize("kind", ["dict", "list", "twice", "dataclass"])
def test_structure_that_holds_itself_comes_to_an_end(kind: str) -> None:
    """A config object with a link to its parent must not keep a run from starting."""
    assert "0.1" in str(written(self_holding(kind))) or kind == "list"


@pytest.mark.parametrize("value", [np.longdouble(0.5), np.clongdouble(0.5)], ids=repr)
def test_extended_floats_of_numpy_are_written(value: Any) -> None:
    """`np.longdouble(0.5).item()` is an np.longdouble: no way to unwrap it."""
    assert written(value) in (0.5, "0.5", "(0.5+0j)")


@pytest.mark.parametrize(
    "value",
    [10**5000, "caf\udce9", {"caf\udce9": 1}, Stubborn()],
    ids=["5000 digits", "surrogate", "surrogate key", "failing repr"],
)
def test_odd_value_does_not_keep_a_run_from_starting(value: Any) -> None:
    """A file name that is not UTF-8 reaches Python as lone surrogates (PEP 383)."""
    assert isinstance(written([value]), list)


def test_very_deep_configuration_is_written() -> None:
    """Depth is cut or written as text, not an error."""
    config: dict[str, Any] = {}
    for _ in range(300):
        config = {"deeper": config}

    assert written(config)["deeper"]


def test_dataclass_with_a_field_not_set_yet_is_written() -> None:
    """`field(init=False)` without a default is set by a later step of the program."""

    @dataclasses.dataclass
    class Later:
        lr: float
        steps: int = dataclasses.field(init=False)

    assert written(Later(0.1))["lr"] == 0.1
