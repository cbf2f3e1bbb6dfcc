"""Which operations make the caller wait for an accelerator, and what to do instead.

torch itself marks the operations whose result is a number on the host, or whose result's size
depends on values (`torch.Tag`), so that those of custom operators are known too. What is left is
a short table: copies and indexing wait or not according to their arguments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, TypeAlias

import torch

Rule: TypeAlias = Callable[[tuple[Any, ...], Mapping[str, Any], Collection[str]], "str | None"]
"""(args, kwargs, watched device types) -> what the wait is called; None if there is none."""

ITEM = "item"
TO_CPU = "copy to cpu"
FROM_CPU = "copy from cpu"
INDEX = "index"
CUDA_SYNC = "CUDA sync"

_READS = {ITEM, "equal", "allclose"}
_MASKS = {torch.bool, torch.uint8}
_WAITING_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_ADVICE = {
    ITEM: "the value is read at once. Pass the tensor itself, log_training_step(loss=loss); read "
    "values for yourself only every so many steps",
    TO_CPU: "copy into pinned memory with non_blocking=True and read it some steps later, or keep "
    "the result on the device until the loop is over",
    FROM_CPU: "pin the memory (DataLoader(pin_memory=True)) and copy with non_blocking=True; make "
    "constants on the device, once",
    INDEX: "a mask's true values must be counted first, and an index on the CPU be copied. Use "
    "torch.where or a product with the mask; keep indices on the device",
    CUDA_SYNC: "torch waits somewhere within this line; how long is not known",
}
_SIZE_ADVICE = (
    "the size of the result depends on values. Use what has a fixed size (torch.where, "
    "nonzero_static, repeat_interleave(output_size=...)), or do it outside of the loop"
)


def find_rule(operation: Any) -> Rule | None:
    """Return the rule for an operation of the dispatcher; None for one that never waits."""
    if not isinstance(operation, torch._ops.OpOverload):
        return None
    name = operation._schema.name
    rule = _RULES.get(name)
    if rule is None and not _WAITING_TAGS.isdisjoint(operation.tags):
        return partial(_if_watched, re.sub(r"^.*::_*|\d+$", "", name))
    return rule


def advise(wait: str) -> str:
    """Return what to do instead of a wait of this name."""
    return _ADVICE.get(ITEM if wait in _READS else wait, _SIZE_ADVICE)


def _if_watched(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], watched: Collection[str]
) -> str | None:
    """Name the wait where any tensor lies on a watched device."""
    for value in (*args, *kwargs.values()):
        for tensor in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(tensor, torch.Tensor) and tensor.device.type in watched:
                return name
    return None


def _to_copy(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], watched: Collection[str]
) -> str | None:
    """`.cpu()`, `.to(...)`: to the CPU, `non_blocking` makes the copy in pinned memory."""
    if kwargs.get("non_blocking"):
        return None
    source = args[0].device
    return _crossing(source, kwargs.get("device") or source, watched)


def _copy(args: tuple[Any, ...], kwargs: Mapping[str, Any], watched: Collection[str]) -> str | None:
    """`target.copy_(source)`, of one tensor or of lists."""
    target, source = (side[0] if isinstance(side, (list, tuple)) else side for side in args[:2])
    wait = _crossing(source.device, target.device, watched)
    non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking")
    if non_blocking and (wait == FROM_CPU or target.is_pinned()):
        return None
    return wait


def _crossing(source: torch.device, target: torch.device, watched: Collection[str]) -> str | None:
    if source.type in watched and target.type == "cpu":
        return TO_CPU
    return FROM_CPU if source.type == "cpu" and target.type in watched else None


def _index(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], watched: Collection[str]
) -> str | None:
    """`x[indices]`."""
    tensor, indices = args[:2]
    if tensor.device.type not in watched:
        return None
    waits = any(
        index is not None and (index.dtype in _MASKS or index.device != tensor.device)
        for index in indices
    )
    return INDEX if waits else None


def _index_put(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], watched: Collection[str]
) -> str | None:
    """`x[indices] = values`; one number from the host under a mask becomes a `masked_fill_`."""
    values = args[2]
    accumulate = args[3] if len(args) > 3 else kwargs.get("accumulate")
    if values.numel() == 1 and values.device.type == "cpu" and not accumulate:
        return None
    return _index(args, kwargs, watched)


_RULES: dict[str, Rule] = {
    "aten::_local_scalar_dense": partial(_if_watched, ITEM),
    "aten::_linalg_check_errors": partial(_if_watched, "linalg check"),
    "aten::_to_copy": _to_copy,
    "aten::copy_": _copy,
    "aten::_foreach_copy_": _copy,
    "aten::index": _index,
    "aten::index_put": _index_put,
    "aten::index_put_": _index_put,
    "aten::_index_put_impl_": _index_put,
}
