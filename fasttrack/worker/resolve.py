"""Resolve records: read every tensor of a batch, one copy per device and dtype."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import torch

from fasttrack.hotpath.norms import fused_norm
from fasttrack.hotpath.records import (
    GRAD_NORM,
    GRADIENTS,
    LOSS,
    PENDING,
    STEP,
    VALUES,
    Record,
)
from fasttrack.worker.device import SideStreams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fasttrack.hotpath.capture import Capture
    from fasttrack.hotpath.gradients import GradientSource
    from fasttrack.hotpath.records import Gradients, RawRecord, Reference, ResolvedRecord, Scalar
    from fasttrack.notices import Notices

    _Target = tuple[dict[str, Scalar], str]


class Resolver:
    """Resolve batches of records.

    Threads: worker only.
    """

    def __init__(self, capture: Capture, gradients: GradientSource, notices: Notices) -> None:
        """Tell `capture` and `gradients` what was stale; count what is lost in `notices`."""
        self._capture = capture
        self._gradients = gradients
        self._notices = notices
        self._streams = SideStreams()
        self.cuda_index: int | None = None  # of the last CUDA tensor that came by
        self._loss_was_finite = True

    def resolve(self, records: list[RawRecord]) -> list[ResolvedRecord]:
        """Replace the tensors in `records` by their numbers, in place, and return `records`.

        Waits for the device where values live there.
        """
        pending = [
            Record._make(raw) for raw in records if raw[PENDING] or raw[GRADIENTS] is not None
        ]
        if pending:
            try:
                self._read_tensors(pending)
            finally:
                for record in pending:
                    if record.gradients is not None:
                        self._gradients.was_read(record.gradients)
        resolved: list[ResolvedRecord] = records  # type: ignore[assignment]  # they are now
        if self._loss_was_finite:
            for raw in resolved:
                loss = raw[VALUES].get(LOSS)
                if loss is not None and loss - loss != 0:  # NaN or infinite
                    self._loss_was_finite = False
                    self._notices.warn("loss", f"the loss became {loss} at step {raw[STEP]}")
                    break
        return resolved

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
            numbers = self._streams.read([tensor for tensor, _ in entries], events)
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
                self._streams.enter(device, record.events)
            norm = fused_norm(gradients.tensors, alike=gradients.alike)
            (number,) = self._streams.read([norm], ())
            if gradients.scale is not None:
                (scale,) = self._streams.read([gradients.scale], ())
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


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:200] or type(error).__name__
