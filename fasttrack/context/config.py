"""Bring a training configuration into a form that JSON and W&B can hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


def to_plain(value: Any) -> Any:
    """Return `value` made of dicts, lists, strings, numbers, bools and None only.

    Dataclass instances become dicts, sets and tuples lists, NumPy scalars numbers. What has no
    such form is written as its `str` (paths, enums, dtypes, classes); non-finite floats too, as
    JSON has none.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return to_plain(value.item())
    return str(value)
