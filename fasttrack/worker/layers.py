"""Norms of each layer: read from the device in one copy, and looked through for bad ones."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from fasttrack.hotpath.layer_list import launch_norms
from fasttrack.hotpath.layers import versions_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fasttrack.hotpath.layer_list import Layers, Norms
    from fasttrack.hotpath.layers import LayerSample, LayerSource
    from fasttrack.hotpath.records import MetricsRecord, Scalar
    from fasttrack.notices import Notices
    from fasttrack.worker.device import SideStreams

    _Norms = tuple[Sequence[int], Sequence[float]]
    """Of whom, by their number; and their norms."""

_MOST_TOGETHER = 2048  # metrics of one row: the GIL is kept while it is encoded


class SeenBad(NamedTuple):
    """Where a model went bad at one step."""

    step: int
    at_s: float
    text: str
    with_loss: bool
    """Whether the loss of the step is known to be bad, too, so that it is said with that."""


class LayerNorms:
    """Make metrics of samples.

    Threads: worker only.
    """

    def __init__(self, source: LayerSource, streams: SideStreams, notices: Notices) -> None:
        """Take the samples of `source`; read them through `streams`; count in `notices`."""
        self.source = source
        self._streams = streams
        self._notices = notices

    def look(self, until_s: float) -> list[SeenBad | list[MetricsRecord]]:
        """Return of samples taken before `until_s` the rows, and which layers were bad, in order.

        Waits for the device.
        """
        seen: list[SeenBad | list[MetricsRecord]] = []
        samples = self.source.samples
        while samples and samples[0].at_s <= until_s:
            sample = samples.pop(0)  # callers only append meanwhile
            try:
                rows, bad = self._read(sample)
            except (RuntimeError, ZeroDivisionError) as error:
                why = str(error).strip().split("\n", 1)[0][:200]
                self._notices.refuse("layers", f"their norms could not be computed: {why}")
                continue
            if bad:
                seen.append(SeenBad(sample.step, sample.at_s, bad, sample.about_bad))
            if rows:
                seen.append(rows)
        return seen

    def _read(self, sample: LayerSample) -> tuple[list[MetricsRecord], str]:
        layers = sample.layers
        if not sample.is_proven and not layers.listed.is_unchanged():
            self._notices.count("stale")
            self.source.has_changed()
            return [], ""
        for device in sample.devices:
            self._streams.enter(device, sample.events)
        of_gradients, of_parameters = self._norms(sample)
        gradients = _by_layer(layers, *of_gradients)
        parameters = _by_layer(layers, *of_parameters)
        bad = [
            _describe(what, [layers.names[place] for place in found[0]], found[1])
            for what, found in (("parameters", parameters), ("gradients", gradients))
            if not isfinite(sum(found[1]))
        ]
        text = "; ".join(filter(None, bad))
        if sample.about_bad:
            return [], text
        names = _picked(layers.grad_names, gradients[0])
        names += _picked(layers.param_names, parameters[0])
        numbers = [*gradients[1], *parameters[1]]
        rows: list[MetricsRecord] = []
        for start in range(0, len(names), _MOST_TOGETHER):
            end = start + _MOST_TOGETHER
            values: dict[str, Scalar] = dict(zip(names[start:end], numbers[start:end], strict=True))
            rows.append((sample.step, sample.at_s, values))
        return rows, text

    def _norms(self, sample: LayerSample) -> tuple[_Norms, _Norms]:
        """Return of which parameters there are gradients, and their norms; and of parameters."""
        norms, versions, scale = sample.gradients
        gradients = norms.tensors
        if versions is not None:
            with torch.no_grad():
                norms = launch_norms(*norms, alike=sample.layers.alike)
        numbers, more = self._both(norms, sample.parameters)
        of_parameters = _in_order(sample.parameters, more)
        if versions is not None and versions != versions_of(gradients):
            # As for the norm of all: they are only true if nobody wrote meanwhile.
            self._notices.count("stale")
            self.source.was_stale()
            return ([], []), of_parameters
        if scale is not None:
            with np.errstate(all="ignore"):  # a scale may have become 0
                numbers = (np.array(numbers) / self._numbers([scale])).tolist()
        return _in_order(norms, numbers), of_parameters

    def _both(self, one: Norms, other: Norms) -> tuple[list[float], list[float]]:
        """Return the numbers of both: by one copy from an accelerator, where no plan is needed."""
        if one.plan is not None or other.plan is not None:
            return self._numbers(one.tensors), self._numbers(other.tensors)
        numbers = self._numbers([*one.tensors, *other.tensors])
        count = len(one.tensors)
        return numbers[:count], numbers[count:]

    def _numbers(self, norms: list[torch.Tensor]) -> list[float]:
        if not norms:
            return []
        numbers: list[float] = []
        if norms[0].dim():  # a plan's vectors are in the host's memory, and are read with the GIL
            for vector in norms:
                numbers += vector.tolist()
            return numbers
        try:
            stacked = torch.stack(norms)
        except RuntimeError:  # of several devices
            return [number for norm in norms for number in self._numbers([norm])]
        numbers += self._streams.fetch(stacked, ()).tolist()
        return numbers


def _in_order(norms: Norms, numbers: list[float]) -> _Norms:
    return norms.places, numbers if norms.plan is None else norms.plan.in_order(numbers)


def _by_layer(layers: Layers, places: Sequence[int], norms: Sequence[float]) -> _Norms:
    """Return layers by their number, and the norm of each over its parameters."""
    if not places or layers.one_each:  # NumPy frees the GIL over many, to wait for it again
        return places, norms
    layer_of = layers.of_parameter[places] if isinstance(places, list) else layers.of_parameter
    with np.errstate(all="ignore"):
        squares = np.bincount(layer_of, weights=np.square(norms), minlength=len(layers.names))
        by_layer = np.sqrt(squares)
    if layer_of is layers.of_parameter:  # of all
        return range(len(layers.names)), by_layer.tolist()
    found = np.unique(layer_of)
    return found.tolist(), by_layer[found].tolist()


def _picked(names: list[str], places: Sequence[int]) -> list[str]:
    if isinstance(places, range):  # of all
        return names[:]
    return [names[place] for place in places]


def _describe(what: str, names: list[str], norms: Sequence[float]) -> str:
    """Return in words which layers have norms that are no finite numbers; "" where none has."""
    bad = [name for name, norm in zip(names, norms, strict=True) if norm - norm != 0]
    if not bad:
        return ""
    if len(bad) == len(names):
        return f"the {what} of all {len(names)} layers are bad"
    others = "" if len(bad) == 1 else f", the last {bad[-1]}"
    return f"the first layer with bad {what} is {bad[0]}{others} ({len(bad)} of {len(names)})"
