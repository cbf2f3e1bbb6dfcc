"""Values and mappings of them, in legal and illegal forms, and what must come of each."""

from __future__ import annotations

import datetime
import math
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from support.model import RESERVED, Number, Refused
from support.model_calls import (
    MAPPINGS,
    Mixed,
    Value,
)

# --- values ---------------------------------------------------------------------------------------


class Celsius(float):
    """A float of the user's own class."""


class Count(int):
    """An int of the user's own class."""


_FLOATS = (0.0, -0.0, 0.5, -1.5, 96.0, math.nan, math.inf, -math.inf)  # exact in every type
_HAVE_NO_INFINITY = ("e4m3fn", "fnuz")
_HAVE_NO_MINUS_ZERO = ("fnuz",)
_TORCH_FLOATS = tuple(
    getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
    )
)
_TORCH_INTEGERS = tuple(
    getattr(torch, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)
)
_SHAPES = ((), (1,), (1, 1))


def number_itself(number: Number) -> Value:
    """Return a float or an int as it is."""
    return Value(repr(number), number, lambda: number)


def _fits(number: float, kind: str) -> bool:
    if math.isinf(number):
        return not kind.endswith(_HAVE_NO_INFINITY)
    return not (number == 0 and math.copysign(1, number) < 0 and kind.endswith(_HAVE_NO_MINUS_ZERO))


def _fill_tensor(tensor: torch.Tensor) -> None:
    with torch.no_grad():
        tensor.copy_(torch.ones(tensor.shape).to(tensor.dtype))


def _tensor(number: Number, dtype: torch.dtype, shape: tuple[int, ...]) -> Value:
    return Value(
        f"tensor({number}, {dtype}, {shape})",
        number,
        lambda: (
            torch.full(shape, number, dtype=torch.float64).to(dtype)
            if dtype.is_floating_point
            else torch.full(shape, number, dtype=dtype)
        ),
        _fill_tensor,
    )


def _computed(number: float) -> Value:
    """Return a loss with a live graph."""
    return Value(
        f"loss {number}",
        number,
        lambda: torch.tensor(number, requires_grad=True, dtype=torch.float64) * 1.0,
        _fill_tensor,
    )


def _numpy(number: Number, kind: type, shape: tuple[int, ...] | None) -> Value:
    text = f"{kind.__name__}({number}, {shape})"
    if shape is None:
        return Value(text, number, lambda: kind(number))
    return Value(text, number, lambda: np.full(shape, number, kind), lambda array: array.fill(1))


_exact = st.sampled_from(_FLOATS)
_small = st.integers(0, 100)
_shapes = st.sampled_from(_SHAPES)

plain = st.one_of(
    st.floats().map(number_itself),
    st.integers(-(2**63), 2**64 - 1).map(number_itself),
    st.booleans().map(lambda truth: Value(repr(truth), int(truth), lambda: truth)),
)
tensors = st.one_of(
    st.tuples(_exact, st.sampled_from(_TORCH_FLOATS), _shapes)
    .filter(lambda drawn: _fits(drawn[0], str(drawn[1])))
    .map(lambda drawn: _tensor(*drawn)),
    st.tuples(_small, st.sampled_from(_TORCH_INTEGERS), _shapes).map(lambda drawn: _tensor(*drawn)),
    st.tuples(st.integers(0, 1), st.just(torch.bool), _shapes).map(lambda drawn: _tensor(*drawn)),
    _exact.map(_computed),
    _exact.map(
        lambda number: Value(
            f"Parameter({number})",
            number,
            lambda: torch.nn.Parameter(torch.tensor(number)),
            _fill_tensor,
        )
    ),
)
others = st.one_of(
    st.floats().map(lambda number: Value(f"Celsius({number})", number, lambda: Celsius(number))),
    _small.map(lambda number: Value(f"Count({number})", number, lambda: Count(number))),
    st.tuples(
        _exact,
        st.sampled_from((np.float16, np.float32, np.float64, np.longdouble)),
        st.none() | _shapes,
    ).map(lambda drawn: _numpy(*drawn)),
    st.tuples(
        _small, st.sampled_from((np.int8, np.uint8, np.int64, np.uint64)), st.none() | _shapes
    ).map(lambda drawn: _numpy(*drawn)),
    st.tuples(st.integers(0, 1), st.just(np.bool_), st.none() | _shapes).map(
        lambda drawn: _numpy(*drawn)
    ),
)
good = st.one_of(plain, plain, tensors, others)


def _bad(text: str, why: str, make: Any, *, none: bool = False) -> Value:
    return Value(text, Refused(why), make, none=none)


_NO_NUMBER = "is not one real number"
bad = st.sampled_from(
    (
        _bad("None", _NO_NUMBER, lambda: None, none=True),
        _bad("'text'", _NO_NUMBER, lambda: "0.5"),
        _bad("bytes", _NO_NUMBER, lambda: b"0.5"),
        _bad("complex", _NO_NUMBER, lambda: 1j),
        _bad("numpy.complex64", _NO_NUMBER, lambda: np.complex64(1j)),
        _bad("list", _NO_NUMBER, lambda: [0.5]),
        _bad("array of two", _NO_NUMBER, lambda: np.zeros(2)),
        _bad("Decimal", _NO_NUMBER, lambda: Decimal("0.5")),
        _bad("timedelta", _NO_NUMBER, lambda: datetime.timedelta(1)),
        _bad("function", _NO_NUMBER, lambda: math.sqrt),
        _bad("tensor of two", "is not one number", lambda: torch.zeros(2)),
        _bad("tensor of none", "is not one number", lambda: torch.zeros(0)),
        _bad("complex tensor", _NO_NUMBER, lambda: torch.tensor(1j)),
    )
)
too_large = st.sampled_from((2**64, -(2**63) - 1, 10**30)).map(number_itself)
usual = st.one_of(
    st.floats().map(number_itself),
    st.tuples(_exact, st.sampled_from((torch.float32, torch.float64)), _shapes).map(
        lambda drawn: _tensor(*drawn)
    ),
    _exact.map(_computed),
)


@st.composite
def now_and_then(draw: st.DrawFn, usual: st.SearchStrategy[Any], *odd: Any, one_in: int = 6) -> Any:
    """Draw what is odd one time in so many; `st.one_of` looks at how many kinds each has."""
    if draw(st.integers(1, one_in)) == one_in:
        return draw(st.sampled_from(odd).flatmap(lambda strategy: strategy))
    return draw(usual)


arguments = now_and_then(good, bad, one_in=4)
values = now_and_then(good, bad, bad, too_large, one_in=4)

# --- mappings -------------------------------------------------------------------------------------

OURS = ("loss/total", "train/lr", "train/amp_scale", "train/grad_norm")
names = st.one_of(
    st.sampled_from(("a", "b", "val/loss", "a.b", "null", "é", "perf/steps_per_sec", *OURS)),
    st.text("abn./_ü雪", min_size=1, max_size=6),
    st.sampled_from((np.str_("numpy"), "a.b.1")),
)
odd_names = st.sampled_from((*RESERVED, 5, None, 2.5, ("t",)))
inner_names = st.one_of(names, names, st.sampled_from((0, 1, True, None, 2.5, "")))
kinds = st.sampled_from(("dict", "dict", "dict", *MAPPINGS))


def _mixed(keys: Any, inner: Any, most: int) -> Any:
    return st.tuples(st.dictionaries(keys, inner, max_size=most), kinds).map(
        lambda drawn: Mixed(tuple(drawn[0].items()), drawn[1])
    )


nested = st.recursive(values, lambda inner: _mixed(inner_names, inner, 3), max_leaves=6)
usual_mappings = st.dictionaries(
    st.sampled_from(("val/loss", "val/accuracy", "a", "b", "c")), usual | plain, min_size=1
).map(lambda items: Mixed(tuple(items.items())))
mappings = st.one_of(
    _mixed(names, values, 6),
    _mixed(names, nested, 4),
    _mixed(now_and_then(names, odd_names, one_in=2), nested, 4),
)
hopeless = _mixed(odd_names, plain, 3) | _mixed(names, too_large, 2)  # no row comes of it
norms = values.map(lambda value: Mixed((("train/grad_norm", value),)))
junk = st.sampled_from((5, "text", [("a", 1.0)], 1.5)).map(lambda each: Mixed(None, junk=each))


@st.composite
def many(draw: st.DrawFn) -> Mixed:
    """Return five hundred metrics, few of them drawn."""
    drawn = st.dictionaries(st.integers(0, 499), values, max_size=4)
    items = {f"layer{number}/norm": value for number, value in draw(drawn).items()}
    for number in range(500):
        items.setdefault(f"layer{number}/norm", number_itself(number * 0.25))
    return Mixed(tuple(items.items()), draw(kinds.filter(lambda kind: kind != "breaks")))
