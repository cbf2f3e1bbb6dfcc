"""Bring a training configuration into a form that JSON and W&B can hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

_DEEPEST = 100  # levels; what lies below, or holds itself, is written as text


def to_plain(value: Any, _around: tuple[int, ...] = ()) -> Any:
    """Return `value` made of dicts, lists, strings, numbers, bools and None only. Never raises.

    Dataclass instances become dicts, sets and tuples lists, NumPy scalars numbers. What has no
    such form is written as its `str` (paths, enums, dtypes, classes); non-finite floats and
    integers above 64 bits too, as JSON has none; a structure that holds itself ends in "...".
    """
    if id(value) in _around or len(_around) > _DEEPEST:
        return "..."
    deeper = (*_around, id(value))
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _encodable(value)
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else _text(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {_text(key): to_plain(item, deeper) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(item, deeper) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in dataclasses.fields(value))
        return to_plain({n: getattr(value, n) for n in names if hasattr(value, n)}, deeper)
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        number = value.item()
        if type(number) is not type(value):  # an extended float is not unwrapped
            return to_plain(number, deeper)
    return _text(value)


def _text(value: Any) -> str:
    try:
        return _encodable(str(value))
    except Exception as error:  # a user's own __str__ may raise anything
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
