"""What calls of `log` make rows of: W&B's meanings of `step` and `commit`.

There is one open row, of the current step. A call adds to it, and what has the same name is
replaced. A call without a step closes it, and so does `commit=True`; `commit=False` does not, nor
does a call with a step: that row is closed by the first call with a higher one. What is closed is
logged, and the next row is of the next step. A step below the current one is dropped.

What stands in the open row is kept as it was at the call: of a tensor the number, or on an
accelerator a copy, which nobody waits for.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Mapping
from threading import RLock
from typing import TYPE_CHECKING, Any

from fasttrack.wandb.said import say_once

if TYPE_CHECKING:
    from collections.abc import Callable

_DEEPEST = 20  # levels of mappings that are looked into
_AXIS = "step"  # the metric that the tracker's step is shown as
_AT_END_S = 0.5  # that the end waits for a call that is under way on another thread


class Rows:
    """Put rows together, and hand them on when they are closed.

    Threads: any.
    """

    def __init__(self, push: Callable[[dict[str, Any], int], None], first_step: int) -> None:
        """Begin with an empty row.

        Args:
            push: takes a closed row and its step.
            first_step: of the first row.
        """
        self._push = push
        self._lock = RLock()  # a signal handler may log in the midst of a call
        self.step = first_step
        """Of the open row."""
        self._values: dict[str, Any] = {}
        self._shown: int | None = None  # the script's own `step`, as it was logged last
        self.last: dict[str, int | float] = {}
        """The last number of every metric, of closed rows."""
        self._axes: dict[str, str] = {}  # by name of a metric, or a beginning and "*"
        self._axis_of: dict[str, str | None] = {}  # of metrics that were seen
        self._told: dict[str, Any] = {}  # the last value of each axis

    def log(self, data: Any, step: Any, commit: bool | None) -> None:
        """Do what `wandb.log` says."""
        if not isinstance(data, Mapping):
            say_once("log", f"log takes a mapping, not a {type(data).__name__}; ignored")
            return
        number = None if step is None else _as_step(step)
        with self._lock:
            if number is not None:
                if number < self.step:
                    say_once(
                        "lower step",
                        f"a call of log with step {number} came when {self.step} was the current "
                        "one: such rows are dropped, as by W&B's client",
                    )
                    return
                if number > self.step:
                    self._close()
                    self.step = number
            _merge(self._values, data)
            if commit or (commit is None and number is None):
                self._close()
                self.step += 1

    def close_at_end(self) -> None:
        """Log what is in the open row: the run ends."""
        if self._lock.acquire(timeout=_AT_END_S):
            try:
                self._close()
            finally:
                self._lock.release()

    def set_axis(self, name: str, axis: str) -> None:
        """Add the last value of `axis` to rows that have the metric `name`, and not it."""
        with self._lock:
            self._axes[name] = axis
            self._axis_of.clear()
            if axis in self.last:
                self._told.setdefault(axis, self.last[axis])

    def _close(self) -> None:
        values, self._values = self._values, {}
        if not values:
            return
        if self._axes:
            self._add_axes(values)
        self.last.update(
            {name: value for name, value in values.items() if type(value) in (int, float)}
        )
        step = self.step
        if _AXIS in values and isinstance(values[_AXIS], int):  # it is its own axis
            step = self._shown = values.pop(_AXIS)
        elif self._shown is not None:
            step = max(step, self._shown)
        self._push(values, step)

    def _add_axes(self, values: dict[str, Any]) -> None:
        for name in list(values):
            axis = self._axis(name)
            if axis is not None and axis not in values and axis in self._told:
                values[axis] = self._told[axis]
        for axis in self._axes.values():
            if axis in values:
                self._told[axis] = values[axis]

    def _axis(self, name: str) -> str | None:
        if name not in self._axis_of:
            fits = [p for p in self._axes if p.endswith("*") and name.startswith(p[:-1])]
            best = name if name in self._axes else max(fits, key=len, default=None)
            self._axis_of[name] = None if best is None else self._axes[best]
        return self._axis_of[name]


def _as_step(step: Any) -> int | None:
    try:
        return operator.index(step)
    except Exception:  # of whatever class it is
        if isinstance(step, float) and step.is_integer():
            return int(step)
    say_once("step", f"a step must be an integer, not {step!r:.50}; logged without it")
    return None


def _merge(values: dict[Any, Any], data: Mapping[Any, Any], depth: int = 0) -> None:
    """Add `data` to `values`; mappings are merged, None is no value."""
    for name, value in data.items():
        kind = type(value)
        if kind is float or kind is int:
            values[name] = value
        elif value is None:
            values.pop(name, None)
        elif isinstance(value, Mapping) and depth < _DEEPEST:
            inner = values.get(name)
            if not isinstance(inner, dict):
                inner = {}
            _merge(inner, value, depth + 1)
            if inner:
                values[name] = inner
        else:
            values[name] = _kept(value)


def _kept(value: Any) -> Any:
    """Return what a value is now."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        if value.numel() != 1 or value.is_meta:
            return value.detach()
        return value.item() if value.is_cpu else value.detach().clone()
    if getattr(value, "size", None) == 1 and type(value).__module__ == "numpy":
        return value.item()
    return value
