"""The values that travel from the caller to the journal. No behaviour.

A `Record` is born unresolved: its values may be tensors whose numbers the device has not computed
yet. Once the worker has resolved it, in place, they are plain numbers, and it becomes a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

LOSS: Final = "loss/total"
GRAD_NORM: Final = "train/grad_norm"
MOST_TICKS: Final = 10_000
"""Steps of one log interval that are kept; the newest, where it is longer."""

Scalar: TypeAlias = "float | int"
Reference: TypeAlias = "tuple[torch.Tensor, int]"
"""A tensor that was not copied, and the version it had when it was logged."""
Captured: TypeAlias = "Scalar | torch.Tensor | Reference"
Ticks: TypeAlias = "Sequence[tuple[float, Any]]"
"""(`time.perf_counter()` in seconds, the batch size as it was passed) of each training step, and
(its end, `PausedSince`) of each pause."""


class PausedSince(float):
    """In place of a batch size: a pause ended then; when it began, on the same clock."""


class OddSize(str):
    """In place of a batch size that is no number: what it is. It may be large, and is not kept."""

    __slots__ = ()


class Gradients(NamedTuple):
    """References to a model's gradients, with the versions they had when the step was logged."""

    tensors: list[torch.Tensor]
    versions: list[int]
    devices: frozenset[torch.device]  # accelerators only
    alike: bool = False  # whether the tensors probably share device and dtype and are dense
    size_bytes: int = 0  # of device memory that is held until they are read
    scale: torch.Tensor | None = None  # what all of them are multiplied by


class Record(NamedTuple):
    """One logged call, as the caller saw it."""

    step: int
    time_s: float  # unix time of the call
    values: dict[str, Captured]
    pending: dict[str, torch.Tensor] | None  # the tensors among `values`, References undone
    ticks: Ticks | None  # of the steps since the last record; None: no training step
    gradients: Gradients | None
    events: tuple[torch.Event, ...]  # what the device must have reached before values are read


class Console(NamedTuple):
    """Text that the training program wrote to stdout or stderr."""

    stream: str
    text: str
    time_s: float


# What travels through the ring is a bare tuple of a Record's fields: making a NamedTuple costs
# 3 us in a training loop, where nothing is in the caches. The worker puts the names back where it
# has more to do than to write the row.
RawRecord: TypeAlias = (
    "tuple[int, float, dict[str, Captured], dict[str, torch.Tensor] | None, Ticks | None, "
    "Gradients | None, tuple[torch.Event, ...]]"
)
ResolvedRecord: TypeAlias = (
    "tuple[int, float, dict[str, Scalar], object, Ticks | None, object, object]"
)
"""The same tuple, once its tensors are numbers."""

STEP: Final = 0
VALUES: Final = 2
PENDING: Final = 3
GRADIENTS: Final = 5
