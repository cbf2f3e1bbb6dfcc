"""What those arguments of `log_training_step` tell that are no numbers: rates, scale, more metrics.

What is passed as `optimizer` may be anything that has parameter groups, or that leads to something
that has: a scheduler, a trainer's wrapper. It is asked anew at every logged step: a GAN logs two in
turn, and groups are added and renamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from fasttrack.errors import ValueRefusedError
from fasttrack.handler_errors import is_handlers
from fasttrack.hotpath.advice import describe, explain
from fasttrack.hotpath.deepspeed import deepspeed_loss_scale
from fasttrack.hotpath.records import LEARNING_RATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fasttrack.hotpath.records import Captured

    Refuse = Callable[[str, str], None]

AMP_SCALE = "train/amp_scale"
_INNER = ("optimizer", "optimizers", "scheduler")  # Accelerate's scheduler has the middle one
_DEEPEST = 5  # wrappers around wrappers
_MOST_CACHED = 64
_INSTEAD = (
    "pass an optimizer, a scheduler, or a list or dict of them; a rate that you know is logged "
    f"with extra={{{LEARNING_RATE!r}: rate}}"
)

_Names: TypeAlias = "tuple[tuple[str, Any], ...]"
_KEYS: dict[_Names, tuple[str, ...]] = {}  # of the few kinds of optimizers that a run has


def add_learning_rates(metrics: dict[str, Captured], optimizer: Any, refuse: Refuse) -> None:
    """Add the rate of each parameter group: `train/lr` is the first's, `train/lr/<name>` another's.

    Groups that have no name, or one that came before, are numbered. The groups of a list stand one
    behind the other; those of a dict are named after its keys, `train/lr/<key>` the first.
    """
    if isinstance(optimizer, Mapping) and "lr" not in optimizer:
        named = [
            (f"{LEARNING_RATE}/{key}", group)
            for key, inner in optimizer.items()
            for group in _groups(inner)
        ]
    else:
        named = [(LEARNING_RATE, group) for group in _groups(optimizer)]
    if not named:
        raise ValueRefusedError(f"is an empty {type(optimizer).__name__}; {_INSTEAD}")
    for key, (_, group) in zip(_keys(named), named, strict=True):
        if isinstance(group, ValueRefusedError):
            refuse(key, str(group))
        elif not isinstance(group, Mapping) or "lr" not in group:
            refuse(key, "its parameter group has no 'lr'")
        else:
            metrics[key] = group["lr"]


def _groups(holder: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the parameter groups of what was passed, or why there are none."""
    if isinstance(holder, (list, tuple)) and depth < _DEEPEST:
        for inner in holder:
            yield from _groups(inner, depth + 1)
        return
    if isinstance(holder, Mapping):
        yield holder
        return
    why = "has no parameter groups"
    try:
        groups = _param_groups(holder)
    except Exception as error:  # the wrapper's own code
        if is_handlers(error):
            raise
        groups, why = [], f"cannot tell its parameter groups: {explain(error)}"
    yield from groups
    if not groups:
        yield ValueRefusedError(f"optimizer ({describe(holder)}) {why}; {_INSTEAD}")


def _param_groups(holder: Any, depth: int = 0) -> list[Any]:
    groups = getattr(holder, "param_groups", None)
    if groups is not None:
        return list(groups)
    for name in _INNER if depth < _DEEPEST else ():
        inner = getattr(holder, name, None)
        several = inner if isinstance(inner, (list, tuple)) else (inner,)
        found = [group for each in several for group in _param_groups(each, depth + 1)]
        if found:
            return found
    return []


def _keys(named: list[tuple[str, Any]]) -> tuple[str, ...]:
    """Return the metric of each group: no two are the same."""
    names: _Names = tuple(
        [
            (prefix, group.get("name") if isinstance(group, Mapping) else None)
            for prefix, group in named
        ]
    )
    try:
        known = _KEYS.get(names)
    except TypeError:  # a name that is a list, say
        names = tuple([(prefix, name and str(name)) for prefix, name in names])
        known = _KEYS.get(names)
    if known is None:
        if len(_KEYS) >= _MOST_CACHED:
            _KEYS.clear()
        known = _KEYS[names] = _name(names)
    return known


def _name(names: _Names) -> tuple[str, ...]:
    keys: list[str] = []
    before = ""
    number = 0  # of the group among those of its prefix
    for prefix, name in names:
        number = number + 1 if prefix == before else 0
        before = prefix
        key = f"{prefix}/{name or number}" if number else prefix
        if key in keys:
            key += f"/{number}"
        while key in keys:
            key += "+"
        keys.append(key)
    return tuple(keys)


def add_scale(metrics: dict[str, Captured], scaler: Any, _: Refuse) -> None:
    """Add a GradScaler's scale, without waiting for the device.

    Raises:
        ValueRefusedError: it is none.
    """
    # get_scale() would wait for the device; _scale is the tensor behind it.
    scale = getattr(scaler, "_scale", None)
    if scale is None:
        scaler = getattr(scaler, "_scaler", scaler)  # timm's holds torch's own
        scale = getattr(scaler, "_scale", None)
    if scale is None:
        if not callable(getattr(scaler, "get_scale", None)):
            raise ValueRefusedError(f"must be a GradScaler, not {describe(scaler)}")
        scale = scaler.get_scale()
    metrics[AMP_SCALE] = scale


def add_loss_scale(metrics: dict[str, Captured], optimizer: Any, _: Refuse) -> None:
    """Add the loss scale of DeepSpeed's optimizer, where it has one."""
    scale = deepspeed_loss_scale(optimizer)
    if scale is not None:
        metrics[AMP_SCALE] = scale


def add_further(metrics: dict[Any, Captured], extra: Any, _: Refuse) -> None:
    """Add what a mapping holds, as far as it can be read.

    Raises:
        ValueRefusedError: it is no mapping.
    """
    if not isinstance(extra, Mapping):
        raise ValueRefusedError(f"must be a mapping such as a dict, not {describe(extra)}")
    for name in extra:
        metrics[name] = extra[name]
