"""JSON of what may name files: names that are not UTF-8 have lone surrogates (PEP 383)."""

from __future__ import annotations

from typing import Any

import orjson


def json_bytes(value: object, option: int = 0) -> bytes:
    """Return `value` as JSON, lone surrogates in its texts spelled out in ASCII.

    Raises:
        TypeError: something else in it is not representable in JSON.
    """
    try:
        return orjson.dumps(value, option=option)
    except TypeError:
        return orjson.dumps(_spelled(value), option=option)


def _spelled(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_spelled(name): _spelled(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_spelled(inner) for inner in value]
    return value
