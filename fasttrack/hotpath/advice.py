"""Why a value is no metric, and what to do instead. Runs where something was refused only."""

from __future__ import annotations

import datetime
from collections.abc import Collection
from typing import Any

from fasttrack.errors import FasttrackError
from fasttrack.handler_errors import is_handlers
from fasttrack.notices import spell

_MEDIA = ("PIL", "fasttrack", "matplotlib", "pandas", "plotly", "polars", "wandb")
"""Packages whose objects are pictures, plots and tables."""
_LONGEST = 300  # characters of an exception that is shown
_ANY_NUMBER = "pass a number made of it, such as float(value)"


def describe(value: Any) -> str:
    """Return what `value` is, in a few words for a warning."""
    # Not isinstance(): that asks the object what it is, which may raise.
    text = spell(value) if issubclass(type(value), (str, bytes, bool, float)) else ""
    return f"{type(value).__name__} {text[:40]}".strip()


def explain(error: Exception) -> str:
    """Return what a warning says of an exception that a logged object, or we, raised."""
    return str(error) if isinstance(error, FasttrackError) else f"raised {spell(error)[:_LONGEST]}"


def why_unread(value: Any, error: Exception) -> str:
    """Return why `value`, for which `error` was raised, is no metric."""
    if isinstance(error, FasttrackError):
        return str(error)
    return f"a {describe(value)} {explain(error)}; {_ANY_NUMBER}"


def why_refused(value: Any) -> str:
    """Return that `value` is not one real number, and what to call or pass instead."""
    try:
        instead = _instead(value)
    except Exception as error:  # whatever the object's attributes do
        if is_handlers(error):
            raise
        instead = _ANY_NUMBER
    return f"a {describe(value)} is not one real number; {instead}"


def _instead(value: Any) -> str:
    kind = getattr(getattr(value, "dtype", None), "kind", "")  # of NumPy's
    if value is None:
        return "leave it out where there is no value"
    if isinstance(value, (str, bytes)) or kind in ("S", "U"):
        return (
            "text belongs to the configuration, update_config({name: text}), "
            "or to log_media(name, text, step)"
        )
    if isinstance(value, complex) or kind == "c":
        return "pass abs(value), or its .real and .imag as two metrics"
    if isinstance(value, (datetime.date, datetime.timedelta)) or kind in ("m", "M"):
        return "pass times as seconds"
    if type(value).__module__.partition(".")[0] in _MEDIA:
        return "pictures, tables and sound go to log_media(name, value, step), plots as a picture"
    if callable(getattr(value, "compute", None)):  # torchmetrics
        return "pass its .compute()"
    if callable(value):
        return "pass what it returns"
    if isinstance(value, Collection) or kind:
        return "pass a reduction such as its mean, or one metric for each element"
    return _ANY_NUMBER
