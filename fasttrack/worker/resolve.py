"""Resolve records: read every tensor of a batch, one copy per device and dtype."""

from __future__ import annotations

from collections import defaultdict
from time import perf_counter, time
from typing import TYPE_CHECKING, Any

import torch

from fasttrack.hotpath.norms import fused_norm
from fasttrack.hotpath.records import (
    GRAD_NORM,
    GRADIENTS,
    LEARNING_RATE,
    LOSS,
    PENDING,
    Record,
)
from fasttrack.worker.device import SideStreams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fasttrack.hotpath.capture import Capture
    from fasttrack.hotpath.gradients import GradientSource
    from fasttrack.hotpath.records import (
        AnyTick,
        Gradients,
        RawRecord,
        Reference,
        ResolvedRecord,
        Scalar,
        Ticks,
    )
    from fasttrack.notices import Notices

    _Target = tuple[dict[str, Scalar], str]


STEP_FIELDS, METRICS_FIELDS = 5, 3  # of a StepRecord, of a MetricsRecord


class Resolver:
    """Resolve batches of records.

    Threads: worker only.
    """

    def __init__(
        self,
        capture: Capture,
        gradients: GradientSource,
        notices: Notices,
        ticks: list[AnyTick] | None = None,
    ) -> None:
        """Tell `capture` and `gradients` what was stale; count what is lost in `notices`.

        `ticks` are those of training steps that were not logged.
        """
        self.ticks: list[AnyTick] = [] if ticks is None else ticks
        """Those that no logged step has taken yet."""
        self._capture = capture
        self._gradients = gradients
        self._notices = notices
        self.streams = SideStreams()
        self.cuda_index: int | None = None  # of the last CUDA tensor that came by

    def resolve(self, records: list[RawRecord]) -> list[ResolvedRecord]:
        """Return what `records` say, their tensors replaced by numbers, in place.

        Puts the ticks to the training steps. Waits for the device where values live there.
        """
        given: list[Any] = records
        unread = [
            Record._make(raw)
            for raw in given
            if len(raw) > STEP_FIELDS and (raw[PENDING] or raw[GRADIENTS] is not None)
        ]
        if unread:
            try:
                self._read_tensors(unread)
            finally:
                for record in unread:
                    if record.gradients is not None:
                        self._gradients.was_read(record.gradients)
        started_s = clock_offset_s()
        waiting = self.ticks
        resolved: list[ResolvedRecord] = []
        ticks: Ticks | None
        for raw in given:
            fields = len(raw)
            if fields == METRICS_FIELDS:
                step, at_s, values = raw
                resolved.append((step, started_s + at_s, values, None))
                continue
            if fields == STEP_FIELDS:
                step, at_s, loss, rate, batch_size = raw
                time_s = started_s + at_s
                values = {LOSS: loss} if rate is None else {LOSS: loss, LEARNING_RATE: rate}
                ticks = ((at_s, batch_size),)
            else:
                step, time_s, values, _, ticks, _, _ = raw
            if waiting and ticks is not None:
                ticks = self.with_earlier(ticks)
            resolved.append((step, time_s, values, ticks))
        return resolved

    def with_earlier(self, own: Ticks) -> Ticks:
        """Return a training step's ticks, with those before it, which are taken."""
        waiting, at_s = self.ticks, own[0][0]
        count = 0
        for earlier_s, _ in waiting:
            if earlier_s > at_s:
                break
            count += 1
        ticks = waiting[:count]
        del waiting[:count]  # callers only change the end of it meanwhile
        ticks += own
        return ticks

    def read_values(
        self,
        waiting: Sequence[tuple[dict[str, Scalar], dict[str, torch.Tensor] | None]],
        events: list[torch.Event],
    ) -> None:
        """Put numbers in the place of tensors, and let go of these. Waits for the device.

        Args:
            waiting: of each mapping the tensors in it, by name. What cannot be read leaves both.
            events: what the device must have reached before.
        """
        groups: dict[tuple[torch.device, torch.dtype], list[tuple[torch.Tensor, _Target]]]
        groups = defaultdict(list)
        for values, pending in waiting:
            for name, tensor in (pending or {}).items():
                groups[tensor.device, tensor.dtype].append((tensor, (values, name)))
        for entries in groups.values():
            self._read_group(entries, events)
        for _, pending in waiting:
            if pending is not None:
                pending.clear()

    def _read_tensors(self, records: Sequence[Record]) -> None:
        groups: dict[tuple[torch.device, torch.dtype], list[tuple[torch.Tensor, _Target]]]
        groups = defaultdict(list)
        references: list[tuple[Reference, _Target]] = []
        for record in records:
            values: dict[str, Scalar] = record.values  # type: ignore[assignment]
            for name, tensor in (record.pending or {}).items():
                kept = record.values[name]
                if type(kept) is tuple:
                    references.append((kept, (values, name)))
                groups[tensor.device, tensor.dtype].append((tensor, (values, name)))
            if record.gradients is not None:
                norm = self._norm(record)
                self._gradients.was_read(record.gradients)
                if norm is not None:
                    values[GRAD_NORM] = norm
        events = [event for record in records for event in record.events]
        for (device, _), entries in groups.items():
            if device.type == "cuda":
                self.cuda_index = device.index
            self._read_group(entries, events)
        for (tensor, version), (values, name) in references:
            if tensor._version != version:
                values.pop(name, None)
                self._capture.snapshot_always.add(name)
                self._notices.count("stale")

    def _read_group(
        self, entries: list[tuple[torch.Tensor, _Target]], events: list[torch.Event]
    ) -> None:
        try:
            numbers = self.streams.read([tensor for tensor, _ in entries], events)
        except RuntimeError as error:
            if len(entries) > 1:  # one dead tensor must not take the others along
                for entry in entries:
                    self._read_group([entry], events)
                return
            ((_, (values, name)),) = entries
            values.pop(name, None)
            self._notices.refuse(name, f"its tensor could not be read: {_first_line(error)}")
            return
        for number, (_, (values, name)) in zip(numbers, entries, strict=True):
            values[name] = int(number) if number is True or number is False else number

    def _norm(self, record: Record) -> float | None:
        gradients: Gradients = record.gradients  # type: ignore[assignment]
        try:
            for device in gradients.devices:
                self.streams.enter(device, record.events)
            norm = fused_norm(gradients.tensors, alike=gradients.alike)
            (number,) = self.streams.read([norm], ())
            if gradients.scale is not None:
                (scale,) = self.streams.read([gradients.scale], ())
                number /= scale
            # A sequence lock: the norm is only true if nobody wrote while it was computed. Moving a
            # model moves its gradients without a new version, and nothing of ours waits for that.
            devices = {gradient.device for gradient in gradients.tensors if not gradient.is_cpu}
            versions = [gradient._version for gradient in gradients.tensors]
            if versions == gradients.versions and devices <= gradients.devices:
                return number
        except (RuntimeError, ZeroDivisionError) as error:
            self._notices.refuse(GRAD_NORM, f"the norm could not be computed: {_first_line(error)}")
            return None
        self._notices.count("stale")
        self._gradients.was_stale()
        return None


def clock_offset_s() -> float:
    """Return what makes unix time of the clock that short records have read."""
    return time() - perf_counter()


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:200] or type(error).__name__
