"""What calls of `log` make rows of: W&B's meanings of `step` and `commit`.

There is one open row, of the current step. A call adds to it, and what has the same name is
replaced. A call without a step closes it, and so does `commit=True`; `commit=False` does not, nor
does a call with a step: that row is closed by the first call with a higher one. What is closed is
logged, and the next row is of the next step. A step below the current one is dropped.

What stands in the open row is kept as it was at the call: of a tensor the number, or on an
accelerator a copy, which nobody waits for. Media are handed on at once, at the step of the open
row: of one name logged twice in a row both are kept.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Mapping
from threading import RLock
from typing import TYPE_CHECKING, Any

from fasttrack.handler_errors import is_handlers
from fasttrack.wandb.media import is_media
from fasttrack.wandb.said import lose, say_losses, say_once

if TYPE_CHECKING:
    from collections.abc import Callable

_DEEPEST = 20  # levels of mappings that are looked into
_AXIS = "step"  # the metric that the tracker's step is shown as
_AT_END_S = 0.5  # that the end waits for a call that is under way on another thread


class Rows:
    """Put rows together, and hand them on when they are closed.

    Threads: any.
    """

    def __init__(
        self,
        push: Callable[[dict[str, Any], int], None],
        first_step: int,
        push_media: Callable[[str, Any, int], None] = lambda name, value, step: None,
    ) -> None:
        """Begin with an empty row.

        Args:
            push: takes a closed row and its step.
            first_step: of the first row.
            push_media: takes what is no number by its name, at once, and its step.
        """
        self._push = push
        self._push_media = push_media
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
            lose("log", f"it takes a mapping, not a {type(data).__name__}", "the call was ignored")
            return
        number = step if step is None or type(step) is int else _as_step(step)
        with self._lock:
            if number is not None:
                if number < self.step:
                    why = f"step {number} lies below the current one, {self.step}"
                    lose("log", why, "dropped, as by W&B's client")
                    return
                if number > self.step:
                    self._close()
                    self.step = number
            media: dict[str, Any] = {}
            _merge(self._values, data, media)
            for name, value in media.items():
                self._push_media(name, value, self._step_of(dict(self._values)))
            if commit or (commit is None and number is None):
                self._close()
                self.step += 1

    def close_at_end(self) -> None:
        """Log what is in the open row, and say what was lost: the run ends."""
        if self._lock.acquire(timeout=_AT_END_S):
            try:
                self._close()
            finally:
                self._lock.release()
        say_losses()

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
        self._push(values, self._step_of(values))

    def _step_of(self, values: dict[str, Any]) -> int:
        """Return the step to log a row with: the script's own `step`, if it logs one."""
        if _AXIS in values:
            own = values[_AXIS]
            if isinstance(own, int) or (isinstance(own, float) and own.is_integer()):
                self._shown = int(values.pop(_AXIS))
                return self._shown
        return self.step if self._shown is None else max(self.step, self._shown)

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
    """Return a step as an integer; None, and say so, where it is none or a device has it."""
    try:
        if getattr(step, "is_cpu", True):
            return operator.index(step)
        what = "a tensor on a device"
    except Exception as error:  # of whatever class it is
        if is_handlers(error):
            raise
        if isinstance(step, float) and step.is_integer():
            return int(step)
        what = f"a {type(step).__name__}"
    say_once("step", f"a step must be an integer, not {what}; logged without it")
    return None


def _merge(
    values: dict[Any, Any],
    data: Mapping[Any, Any],
    media: dict[str, Any],
    prefix: str = "",
    depth: int = 0,
) -> None:
    """Add `data` to `values`; mappings are merged, None is no value.

    What is no number comes to `media` instead, under dotted names.
    """
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
            _merge(inner, value, media, f"{prefix}{name}.", depth + 1)
            if inner:
                values[name] = inner
        elif is_media(value):
            media[f"{prefix}{name}"] = value
        else:
            values[name] = _kept(value)


def _kept(value: Any) -> Any:
    """Return what a value is now."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        if type(value) is not torch.Tensor and _is_distributed(value):
            return value  # its number may take a collective: the tracker says what to pass
        if value.numel() != 1 or value.is_meta:
            return value.detach()
        return value.item() if value.is_cpu else value.detach().clone()
    if getattr(value, "size", None) == 1 and type(value).__module__ == "numpy":
        return value.item()
    return value


def _is_distributed(tensor: Any) -> bool:
    return hasattr(tensor, "to_local") or hasattr(tensor, "trigger_wait")
