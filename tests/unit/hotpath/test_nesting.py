"""Nested metrics and their names; and what is said of values that are none."""

from __future__ import annotations

import datetime
import enum
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from fasttrack.hotpath.advice import why_refused
from fasttrack.hotpath.nesting import flatten


def flattened(nested: Any, taken: Any = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what is logged by name, and what is refused and why."""
    refused: dict[str, str] = {}
    return flatten(nested, taken, refused.__setitem__), refused


def test_names_are_joined_by_dots_at_any_depth() -> None:
    """As W&B shows them; any mapping will do."""
    nested = {"val": MappingProxyType({"loss": 1, "top": {"1": {"a": 2}}}), "b": {"c": 3}}

    assert flattened(nested) == ({"val.loss": 1, "val.top.1.a": 2, "b.c": 3}, {})


def test_numbers_are_names_below_the_first_and_nothing_else_is() -> None:
    """Classes are numbered; an empty mapping logs nothing."""
    flat, refused = flattened({"acc": {0: 0.5, ("a",): 1, None: 2}, "none": {}})

    assert flat == {"acc.0": 0.5}
    assert refused.keys() == {"acc.('a',)", "acc.None"}


def test_name_that_stands_twice_is_refused_with_the_fix() -> None:
    """Whichever won, the other would be lost in silence."""
    flat, refused = flattened({"a": {"b.c": 1, "b": {"c": 2, "d": 3}}}, taken={"a.b.d"})

    assert flat == {"a.b.c": 1}
    assert refused == dict.fromkeys(("a.b.c", "a.b.d"), "it stands twice in this call; rename one")


def test_name_that_is_no_string_is_refused() -> None:
    """As it is outside of mappings."""
    assert flattened({5: {"a": 1}}) == ({}, {"5": "names are strings"})


def test_mapping_that_holds_itself_ends() -> None:
    """Twice, so that its paths would double with every level."""
    loop: dict[str, Any] = {"a": 1}
    loop["x"], loop["y"] = loop, {"back": loop}

    flat, refused = flattened({"m": loop})

    assert flat == {"m.a": 1}
    assert refused.keys() == {"m.x", "m.y.back"}


def test_nesting_without_end_is_refused() -> None:
    """What is deeper than anybody nests."""
    deep: dict[str, Any] = {"a": 1}
    for _ in range(500):
        deep = {"a": deep}

    flat, refused = flattened({"m": deep})

    assert flat == {}
    assert len(refused) == 1


class Metric:
    """As torchmetrics': it is computed when asked."""

    def compute(self) -> float:
        """Return it."""
        return 0.5


@pytest.mark.parametrize(
    ("value", "instead"),
    [
        (None, "leave it out"),
        ("resnet", r"update_config\(\{name: text\}\)"),
        (b"x", r"update_config\("),
        (np.array(["a", "b"]), r"update_config\("),
        ([0.1, 0.2], "a reduction such as its mean, or one metric for each element"),
        ((), "a reduction"),
        ({1, 2}, "a reduction"),
        (np.zeros(3), "a reduction"),
        (1 + 2j, r"abs\(value\)"),
        (np.complex64(1), r"abs\(value\)"),
        (datetime.datetime(2026, 1, 1), "times as seconds"),
        (datetime.timedelta(1), "times as seconds"),
        (np.datetime64("2026-01-01"), "times as seconds"),
        (Metric(), r"\.compute\(\)"),
        (len, "what it returns"),
        (torch.nn.Linear(1, 1), "what it returns"),
        (object(), r"float\(value\)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_refusal_says_what_to_do_instead(value: Any, instead: str) -> None:
    """The user need not look it up."""
    assert f"a {type(value).__name__}" in why_refused(value)
    with pytest.raises(ValueError, match=instead):
        raise ValueError(why_refused(value))


def test_where_pictures_and_plots_go_is_said() -> None:
    """They are told by their package, which need not be loaded here."""
    figure = pytest.importorskip("matplotlib.figure").Figure()

    assert "go to log_media(name, value, step), plots as a picture" in why_refused(figure)


def test_names_of_a_class_of_the_users_own_are_read_as_text() -> None:
    """An enum's is its value; one that cannot be formatted lost the whole call."""

    class Name(str):
        def __format__(self, spec: str) -> str:
            raise RuntimeError("no")

        __slots__ = ()

    class Part(str, enum.Enum):
        HEAD = "head"

    assert flattened({Name("a"): {Name("b"): 1, Part.HEAD: 2}}) == ({"a.b": 1, "a.head": 2}, {})
