"""Bring a training configuration into a form that JSON, YAML and W&B can hold.

The classes of other packages are looked up among the loaded modules, never imported: a value can
only be of a class that is loaded.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import enum
import itertools
import math
import sys
import uuid
from collections import UserString
from collections.abc import Mapping
from pathlib import PurePath
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fasttrack.handler_errors import is_handlers

if TYPE_CHECKING:
    from collections.abc import Iterator

_DEEPEST = 100  # levels; what lies below, or holds itself, is written as text
_TEXT_SAYS_ALL = (
    enum.Enum,
    PurePath,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    uuid.UUID,
    complex,
)


def as_config(value: Any, lost: list[str] | None = None) -> dict[str, Any] | None:
    """Return a configuration as a plain dict; None when it has no such form. Never raises.

    Args:
        value: a mapping, dataclass, argparse.Namespace, OmegaConf configuration or pydantic model.
        lost: see `to_plain`.
    """
    plain = to_plain(value, lost)
    return plain if isinstance(plain, dict) else None


def config_refusal(value: Any) -> str:
    """Return the message for a `value` that `as_config` has no form for."""
    return (
        "config must be a mapping such as a dict, a dataclass, Namespace, OmegaConf or pydantic "
        f"object, not {type(value).__name__}"
    )


def to_plain(value: Any, lost: list[str] | None = None) -> Any:
    """Return `value` made of dicts, lists, strings, numbers, bools and None only. Never raises.

    Dataclass instances, namespaces, pydantic models and OmegaConf containers (resolved) become
    dicts and lists, sets and tuples lists, NumPy scalars numbers. What has no such form is written
    as its `str`; non-finite floats and integers above 64 bits too, as JSON has none, and dates as
    in ISO 8601. A structure that holds itself ends in "...".

    Args:
        value: anything.
        lost: gets the key paths ("model.layers[2].act") of values that their text cannot stand
            for: functions, classes, tensors, other objects, interpolations that lead nowhere.
    """
    return _plain(value, "", (), [] if lost is None else lost)


def _plain(value: Any, path: str, around: tuple[int, ...], lost: list[str]) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return encodable(str.__str__(value))
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else _text(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if id(value) in around or len(around) > _DEEPEST:
        lost.append(path)
        return "..."
    around = (*around, id(value))
    try:
        inner = _open(value)
    except Exception as error:  # code of the value's class runs in there, and may raise anything
        if is_handlers(error):
            raise
        inner = None
    if isinstance(inner, dict):
        return {
            name: _plain(item, f"{path}.{name}" if path else name, around, lost)
            for name, item in _named(inner, path, lost)
        }
    if isinstance(inner, list):
        return [_plain(item, f"{path}[{i}]", around, lost) for i, item in enumerate(inner)]
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        number = value.item()
        if type(number) is not type(value):  # an extended float is not unwrapped
            return _plain(number, path, around, lost)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, _TEXT_SAYS_ALL):
        return _text(value)
    if _is(value, "decimal", "Decimal") or _is(value, "torch", "dtype", "device"):
        return _text(value)
    lost.append(path)
    return _text_unread(value)


def _named(inner: dict[Any, Any], path: str, lost: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield items under names that are strings, all different: 1 and "1" are two keys."""
    taken = {str.__str__(key) for key in inner if isinstance(key, str)}
    for key, item in inner.items():
        name = _text(key)
        if not isinstance(key, str) and name in taken:
            name = _unused(f"{name} ({type(key).__name__})", taken)
            lost.append(f"{path}.{name}" if path else name)
        taken.add(name)
        yield name, item


def _unused(name: str, taken: set[str]) -> str:
    """Return `name`, with a number where it is taken."""
    numbered = (f"{name} {number}" for number in itertools.count(2))
    return name if name not in taken else next(other for other in numbered if other not in taken)


def _open(value: Any) -> dict[Any, Any] | list[Any] | None:
    """Return what `value` holds, one level deep; None when it holds nothing to be seen."""
    if _is(value, "omegaconf", "Container"):  # whose items may raise when they are read
        if isinstance(value, Mapping):
            return {key: _node(value, key) for key in value}
        return [_node(value, i) for i in range(len(value))]
    if isinstance(value, Mapping):
        return dict(value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple
        return dict(zip(value._fields, value, strict=False))
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=_text)  # strings' own order changes from process to process
    if isinstance(value, (argparse.Namespace, SimpleNamespace)):
        return dict(vars(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in dataclasses.fields(value))
        return {name: getattr(value, name) for name in names if hasattr(value, name)}
    if _is(value, "pydantic.main", "BaseModel") or _is(value, "pydantic.v1.main", "BaseModel"):
        return dict(value)
    return None


def _node(container: Any, key: Any) -> Any:
    """Return an item of an OmegaConf container, resolved; its text as written where it cannot be.

    "???", a mandatory value that is not set, is the usual way to write just that.
    """
    try:
        return container[key]
    except Exception as error:  # resolvers are the user's own functions
        if is_handlers(error):
            raise
        omegaconf: Any = sys.modules["omegaconf"]
        text = omegaconf.OmegaConf.to_container(container, resolve=False)[key]
        return text if text == "???" else UserString(text)


def _is(value: Any, module: str, *names: str) -> bool:
    classes = (getattr(sys.modules.get(module), name, None) for name in names)
    return any(isinstance(known, type) and isinstance(value, known) for known in classes)


def _text(value: Any) -> str:
    try:
        return encodable(str(value))
    except Exception as error:  # a user's own __str__ may raise anything
        if is_handlers(error):
            raise
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _text_unread(value: Any) -> str:
    """Return the text of an object; of what lies on an accelerator only what it is.

    Reading that would wait for all that training has queued there, and many an object's text does:
    a tensor's, a distribution's, an optimizer's whose learning rate is a tensor.
    """
    torch: Any = sys.modules.get("torch")
    dispatch: Any = sys.modules.get("torch.utils._python_dispatch")
    if torch is None or dispatch is None:
        return _text(value)

    class Unread(dispatch.TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            if any(isinstance(arg, torch.Tensor) and not arg.is_cpu for arg in args):
                raise RuntimeError("on an accelerator")
            return func(*args, **(kwargs or {}))

    if isinstance(value, torch.Tensor) and not value.is_cpu:
        shape = "x".join(map(str, value.shape)) or "scalar"
        return f"<{type(value).__name__}: {shape}, {value.dtype}, {value.device}>"
    with Unread():
        return _text(value)


def encodable(text: str) -> str:
    """Return `text` without lone surrogates (file names that are not UTF-8, PEP 383)."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
