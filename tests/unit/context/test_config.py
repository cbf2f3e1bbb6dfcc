"""Bringing any training configuration into a form that JSON and W&B hold."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import math
import types
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import omegaconf
import orjson
import pydantic
import pydantic.v1
import pytest
import torch
import yaml
from support.runs import run_script

from fasttrack.context.config import as_config, to_plain


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
        (Point(1, 2), {"x": 1, "y": 2}),
        ({"a": {"b": [{"c": (1,)}]}}, {"a": {"b": [{"c": [1]}]}}),
        ({1: "a", None: "b", Color.RED: "c"}, {"1": "a", "None": "b", "Color.RED": "c"}),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (Optimizer(0.1), {"lr": 0.1, "betas": [0.9, 0.95]}),
        (
            Training(Optimizer(0.1)),
            {"optimizer": {"lr": 0.1, "betas": [0.9, 0.95]}, "out": "/tmp/x"},
        ),
        (argparse.Namespace(lr=0.1, sub=argparse.Namespace(a=1)), {"lr": 0.1, "sub": {"a": 1}}),
        (types.SimpleNamespace(lr=0.1), {"lr": 0.1}),
        (Color.RED, "Color.RED"),
        (Shade.DARK, "dark"),
        (Level.HIGH, 3),
        (PurePosixPath("a/b"), "a/b"),
        (datetime.date(2026, 1, 23), "2026-01-23"),
        (datetime.datetime(2026, 1, 23, 14, 30), "2026-01-23T14:30:00"),
        (datetime.time(14, 30), "14:30:00"),
        (datetime.timedelta(hours=2), "2:00:00"),
        (decimal.Decimal("0.10"), "0.10"),
        ({"b", "c", "a"}, ["a", "b", "c"]),
        (np.datetime64("2026-01-23"), "2026-01-23"),
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
    ids=lambda value: type(value).__name__,
)
def test_value_takes_its_plain_form(value: Any, plain: Any) -> None:
    """What JSON knows is kept, what it does not is written as text."""
    result = to_plain(value)

    assert result == plain
    assert type(result) in (type(None), bool, str, int, float, list, dict)
    assert written(value) == plain


@pytest.mark.parametrize(
    ("value", "start"),
    [
        (Optimizer, "<class "),
        (torch.nn.Linear(1, 1), "Linear(in_features=1"),
        (torch.zeros(2, requires_grad=True), "tensor([0., 0."),
        (len, "<built-in function len"),
    ],
    ids=["class", "module", "tensor", "function"],
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


# --- OmegaConf and pydantic -----------------------------------------------------------------------


def test_omegaconf_is_written_resolved() -> None:
    """What trains are the values that interpolations lead to."""
    config = omegaconf.OmegaConf.create(
        {"base": 0.1, "opt": {"lr": "${base}", "steps": [1, "${base}"]}, "all": "${opt}"}
    )

    assert written(config) == {
        "base": 0.1,
        "opt": {"lr": 0.1, "steps": [1, 0.1]},
        "all": {"lr": 0.1, "steps": [1, 0.1]},
    }
    assert written(config.opt.steps) == [1, 0.1]


def test_omegaconf_inside_another_structure_is_written_resolved() -> None:
    """Hydra's configuration often ends up in a dict or a dataclass."""
    config = omegaconf.OmegaConf.create({"a": 1, "b": "${a}"})

    assert written({"cfg": [config.copy()]}) == {"cfg": [{"a": 1, "b": 1}]}


def test_missing_value_of_omegaconf_stays_as_it_is_written() -> None:
    """`???` is a value that must be given, and was not."""
    lost: list[str] = []
    config = omegaconf.OmegaConf.create({"a": "???", "b": ["???", None], "c": None})

    assert to_plain(config, lost) == {"a": "???", "b": ["???", None], "c": None}
    assert lost == []


def test_interpolation_that_leads_nowhere_stays_as_it_is_written_and_is_told() -> None:
    """Reading such a value raises, which must not keep a run from starting."""
    lost: list[str] = []
    config = omegaconf.OmegaConf.create(
        {"good": 1, "a": "${nowhere}", "b": ["x", "${no.such:1}"], "c": {"d": "${.e}"}}
    )

    plain = to_plain(config, lost)

    assert plain == {
        "good": 1,
        "a": "${nowhere}",
        "b": ["x", "${no.such:1}"],
        "c": {"d": "${.e}"},
    }
    assert lost == ["a", "b[1]", "c.d"]


def test_structured_omegaconf_is_written() -> None:
    """A DictConfig made of a dataclass, as Hydra's config store makes it."""
    config = omegaconf.OmegaConf.structured(Optimizer(0.1, betas=(0.5,)))

    assert written(config) == {"lr": 0.1, "betas": [0.5]}


class Model(pydantic.BaseModel):
    """A model of pydantic 2, with a secret, extras and a part that computes."""

    model_config = pydantic.ConfigDict(extra="allow")
    lr: float
    out: Path = Path("out")
    inner: Model | None = None


class OldModel(pydantic.v1.BaseModel):
    """A model of pydantic 1."""

    lr: float
    inner: Any = None


class Items(pydantic.RootModel[list[int]]):
    """Iterates over its items, as pydantic's documentation advises."""

    def __iter__(self) -> Iterator[int]:  # type: ignore[override]
        return iter(self.root)


def test_pydantic_models_become_dicts() -> None:
    """Nested ones, fields that nobody declared and versions 1 and 2 alike."""
    model = Model.model_validate(
        {
            "lr": 0.1,
            "inner": Model(lr=0.2),
            "extra": [OldModel(lr=0.3, inner=OldModel(lr=0.4))],
        }
    )

    assert written(model) == {
        "lr": 0.1,
        "out": "out",
        "inner": {"lr": 0.2, "out": "out", "inner": None},
        "extra": [{"lr": 0.3, "inner": {"lr": 0.4, "inner": None}}],
    }


def test_pydantic_secret_stays_one() -> None:
    """SecretStr shows stars, and so must we."""
    assert "s3cr3t" not in str(
        written(Model.model_validate({"lr": 0.1, "key": pydantic.SecretStr("s3cr3t")}))
    )


def test_model_that_iterates_over_something_else_is_written_as_text() -> None:
    """Whatever a class makes of `dict(model)`, nothing is raised."""
    assert isinstance(written(Items([1, 2])), str)


def test_mapping_that_raises_is_written_as_text_and_told() -> None:
    """A lazy mapping may fail when it is read."""

    class Broken(collections.UserDict):  # type: ignore[type-arg]
        def items(self) -> Any:
            raise RuntimeError("not loaded")

    lost: list[str] = []

    assert to_plain({"a": Broken(b=1)}, lost) == {"a": "{'b': 1}"}
    assert lost == ["a"]


def test_neither_omegaconf_nor_pydantic_is_imported_for_it() -> None:
    """Whoever does not use them must not pay for them."""
    run_script(
        """
        import sys
        from fasttrack.context.config import to_plain
        to_plain({"a": [object(), 1]})
        assert not {"omegaconf", "pydantic", "torch", "numpy"} & set(sys.modules)
        """,
        fresh=True,
    )


# --- what is lost, and what is a configuration ----------------------------------------------------


def test_key_paths_of_what_its_text_cannot_stand_for_are_told() -> None:
    """log_config must say what its file does not hold."""
    lost: list[str] = []
    holding: dict[str, Any] = {"lr": 1}
    holding["self"] = holding

    to_plain(
        {
            "fine": [1, "a", None, math.nan, 2**70, Color.RED, Path("x"), torch.bfloat16, 1j],
            "act": len,
            "layers": [{"cls": Optimizer}, torch.zeros(1)],
            "opt": Optimizer(0.1, betas=(object(),)),  # type: ignore[arg-type]
            "round": holding,
            3: np.zeros(2),
        },
        lost,
    )

    assert lost == ["act", "layers[0].cls", "layers[1]", "opt.betas[0]", "round.self", "3"]


@pytest.mark.parametrize(
    "value",
    [
        {"lr": 0.1},
        types.MappingProxyType({"lr": 0.1}),
        argparse.Namespace(lr=0.1),
        types.SimpleNamespace(lr=0.1),
        dataclasses.make_dataclass("D", [("lr", float)])(0.1),
        omegaconf.OmegaConf.create({"lr": 0.1}),
        OldModel(lr=0.1).copy(exclude={"inner"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_form_of_configuration_is_accepted(value: Any) -> None:
    """Whatever a project parses its options with."""
    assert as_config(value) == {"lr": 0.1}


@pytest.mark.parametrize(
    "value",
    [None, 1, "text", [1], Optimizer, object(), omegaconf.OmegaConf.create([1]), len, Color.RED],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_names_is_no_configuration(value: Any) -> None:
    """The caller says so to the user, in words of its own."""
    assert as_config(value) is None


def test_lost_values_of_a_configuration_are_told() -> None:
    """As by `to_plain`."""
    lost: list[str] = []

    as_config(argparse.Namespace(fn=len), lost)

    assert lost == ["fn"]


def test_plain_form_survives_yaml() -> None:
    """The safe dumper refuses whatever is not exactly a plain type: `str` enums, `np.str_`."""
    config = {"a": Shade.DARK, "b": np.str_("x"), "c": Level.HIGH, "d": (1, np.float64(0.5))}

    assert yaml.safe_load(yaml.safe_dump(to_plain(config))) == {
        "a": "dark",
        "b": "x",
        "c": 3,
        "d": [1, 0.5],
    }


# --- names ----------------------------------------------------------------------------------------


def test_keys_with_one_text_are_both_kept() -> None:
    """1 and "1" are two keys of a dict; JSON knows strings only."""
    lost: list[str] = []

    plain = to_plain({1: "a", "1": "b", "1 (int)": "c", "in": {None: 1, "None": 2}}, lost)

    assert plain == {
        "1 (int) 2": "a",
        "1": "b",
        "1 (int)": "c",
        "in": {"None (NoneType)": 1, "None": 2},
    }
    assert lost == ["1 (int) 2", "in.None (NoneType)"]


def test_named_tuples_keep_their_names() -> None:
    """At every depth, `typing.NamedTuple`s too; other tuples are lists."""

    class Betas(NamedTuple):
        first: float
        second: float = 0.95

    assert to_plain({"opt": [Betas(0.9)], "point": Point(1, (2, 3))}) == {
        "opt": [{"first": 0.9, "second": 0.95}],
        "point": {"x": 1, "y": [2, 3]},
    }
    assert as_config(Betas(0.9)) == {"first": 0.9, "second": 0.95}


# --- accelerators ---------------------------------------------------------------------------------

ON_AN_ACCELERATOR = """
import os, sys
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from support import toy_accelerator
from fasttrack.context.config import to_plain

kept = toy_accelerator.install()
x = torch.ones(2, 3).to("toy")
scalar = torch.ones(()).to("toy")
parameter = torch.nn.Parameter(x)
optimizer = torch.optim.Adam([torch.zeros(1)], lr=torch.tensor(0.5))
optimizer.param_groups[0]["lr"] = scalar
config = {
    "x": x, "deep": [{"scalar": scalar}], "parameter": parameter, "optimizer": optimizer,
    "cpu": torch.ones(2), "lr": 0.1,
}
reads = []

class Reads(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(isinstance(a, torch.Tensor) and not a.is_cpu for a in args):
            reads.append(str(func))
        return func(*args, **(kwargs or {}))
with Reads():
    lost = []
    plain = to_plain(config, lost)
for name, value in plain.items():
    print(name, "=", value)
print(lost)
print(reads)
sys.stdout.flush()
os._exit(0)
"""


def test_what_lies_on_an_accelerator_is_described_and_not_read() -> None:
    """Reading it would wait for all that training has queued there."""
    lines = run_script(ON_AN_ACCELERATOR).stdout.splitlines()

    assert lines[:2] == [
        "x = <Toy: 2x3, torch.float32, toy:0>",
        "deep = [{'scalar': '<Toy: scalar, torch.float32, toy:0>'}]",
    ]
    assert lines[-1] == "[]"
    assert "cpu = tensor([1., 1.])" in lines
    assert "lr = 0.1" in lines
