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
LEARNING_RATE: Final = "train/lr"
GRAD_NORM: Final = "train/grad_norm"
FIRST_NONFINITE_STEP: Final = "train/first_nonfinite_step"
LARGEST_STEP: Final = 2**53
"""Of a row, and of anything else that has one, up or down: W&B's page is JavaScript, and its
courier needs room above for steps of its own. A call may come with any number."""
MOST_TICKS: Final = 40_000
"""Steps that are kept until the worker has put them to a logged one; the newest, if more came."""

Scalar: TypeAlias = "float | int"
Reference: TypeAlias = "tuple[torch.Tensor, int]"
"""A tensor that was not copied, and the version it had when it was logged."""
Captured: TypeAlias = "Scalar | torch.Tensor | Reference"
AnyTick: TypeAlias = "tuple[float, Any]"
Ticks: TypeAlias = "Sequence[AnyTick]"
"""(`time.perf_counter()` in seconds, the batch size as it was passed) of each training step,
(its end, `PausedSince`) of each pause, and (then, `PhaseMark`) of each beginning and end of a
phase. In the order in which they were noted."""


class PausedSince(float):
    """In place of a batch size: a pause ended then; when it began, on the same clock."""


class FellOut:
    """In place of a batch size: before it, steps are missing. Only ever used as a class."""


class OddSize(str):
    """In place of a batch size that is no number: what it is. It may be large, and is not kept."""

    __slots__ = ()


class WithTokens(NamedTuple):
    """In place of a batch size: it, and how many tokens the step had."""

    batch_size: Any
    tokens: Any


class PhaseMark:
    """In place of a batch size: a phase begins or ends there. One serves for all its steps."""

    __slots__ = ("change", "name")

    def __init__(self, name: str, change: int) -> None:
        """Mark the phase `name`: 1 for its beginning, -1 for its end."""
        self.name = name
        self.change = change


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


class MediaJob(NamedTuple):
    """What was logged and is no number, as its contents were at the call."""

    name: str
    type: str
    """One of `journal.media.MEDIA_TYPES`."""
    parts: tuple[tuple[Any, str], ...]
    """Bytes, or a copy of an array, and the extension of the file that they become."""
    about: dict[str, Any]
    size_bytes: int
    """Of the copies; given back to the budget once they are on disk."""


class Console(NamedTuple):
    """Text that the training program wrote to stdout or stderr."""

    stream: str
    text: str
    time_s: float


# What travels through the ring are bare tuples: making a NamedTuple costs 3 us in a training loop,
# where nothing is in the caches. The usual calls leave what only they can know, the worker makes
# whole records of it; the names are put back where there is more to do than to write the row.
StepRecord: TypeAlias = "tuple[int, float, float, float | None, Any]"
"""A training step as most log it: step, `time.perf_counter()`, the loss, the one learning rate
(None: no optimizer was passed) and the batch size as it was passed."""
MetricsRecord: TypeAlias = "tuple[int, float, dict[str, Scalar]]"
"""A call of `log_metrics` with plain numbers: step, `time.perf_counter()` and values."""
WholeRecord: TypeAlias = (
    "tuple[int, float, dict[str, Captured], dict[str, torch.Tensor] | None, Ticks | None, "
    "Gradients | None, tuple[torch.Event, ...]]"
)
"""A `Record`'s fields; in the ring, its ticks are the call's own only."""
MediaRecord: TypeAlias = (
    "tuple[int, float, dict[str, Captured], None, None, None, tuple[torch.Event, ...], MediaJob]"
)
"""A `Record`'s fields, without values, and what there is in their place; longer than all others."""
RawRecord: TypeAlias = "WholeRecord | StepRecord | MetricsRecord | MediaRecord"
ResolvedRecord: TypeAlias = "tuple[int, float, dict[str, Scalar], Ticks | None]"
"""Step, unix time, values and ticks of a record, once its tensors are numbers and its ticks all."""

STEP: Final = 0
VALUES: Final = 2
PENDING: Final = 3
TICKS: Final = 4
GRADIENTS: Final = 5
EVENTS: Final = 6
MEDIA: Final = 7
MEDIA_FIELDS: Final = 8
