"""Norms of each layer: read from the device in one copy, and looked through for bad ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from fasttrack.hotpath.layers import version_of
from fasttrack.hotpath.norms import each_norm

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from fasttrack.hotpath.layers import Layers, LayerSample, LayerSource
    from fasttrack.hotpath.records import MetricsRecord, Scalar
    from fasttrack.notices import Notices
    from fasttrack.worker.device import SideStreams

PARAM_NORM_OF = "layers/param_norm/"
_MOST_TOGETHER = 128  # metrics of one row: the GIL is kept while it is encoded


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

    def look(self, until_s: float) -> tuple[list[MetricsRecord], list[SeenBad]]:
        """Return rows of samples taken before `until_s`, and which layers were bad in them.

        Waits for the device.
        """
        rows: list[MetricsRecord] = []
        bad: list[SeenBad] = []
        samples = self.source.samples
        while samples and samples[0].at_s <= until_s:
            sample = samples.pop(0)  # callers only append meanwhile
            try:
                found = self._read(sample)
            except (RuntimeError, ZeroDivisionError) as error:
                why = str(error).strip().split("\n", 1)[0][:200]
                self._notices.refuse("layers", f"their norms could not be computed: {why}")
                continue
            rows += found[0]
            if found[1]:
                bad.append(SeenBad(sample.step, sample.at_s, found[1], sample.about_bad))
        return rows, bad

    def _read(self, sample: LayerSample) -> tuple[list[MetricsRecord], str]:
        for device in sample.devices:
            self._streams.enter(device, sample.events)
        layers = sample.layers
        gradients = _by_layer(layers, *self._of_gradients(sample))
        parameters = _by_layer(layers, list(sample.turn), self._numbers(sample.norms))
        bad = [
            _describe(what, [layers.names[place] for place in found[0]], found[1])
            for what, found in (("parameters", parameters), ("gradients", gradients))
            if not np.isfinite(found[1]).all()
        ]
        if sample.about_bad:
            return [], "; ".join(bad)
        names = layers.grad_names
        if len(gradients[0]) < len(names):
            names = [names[place] for place in gradients[0]]
        names = names + [PARAM_NORM_OF + layers.names[place] for place in parameters[0]]
        numbers = [*gradients[1].tolist(), *parameters[1].tolist()]
        rows: list[MetricsRecord] = []
        for start in range(0, len(names), _MOST_TOGETHER):
            end = start + _MOST_TOGETHER
            values: dict[str, Scalar] = dict(zip(names[start:end], numbers[start:end], strict=True))
            rows.append((sample.step, sample.at_s, values))
        return rows, "; ".join(bad)

    def _of_gradients(self, sample: LayerSample) -> tuple[list[int], npt.NDArray[np.float64]]:
        """Return of which parameters there are gradients, and their norms."""
        places, tensors, versions, scale = sample.gradients
        norms = tensors
        if versions is not None:
            with torch.no_grad():
                norms = each_norm(tensors, alike=sample.layers.alike)
        numbers = self._numbers(norms)
        if versions is not None and versions != list(map(version_of, tensors)):
            # As for the norm of all: they are only true if nobody wrote meanwhile.
            self._notices.count("stale")
            self.source.was_stale()
            return [], np.zeros(0)
        if scale is not None:
            with np.errstate(all="ignore"):  # a scale may have become 0
                numbers = numbers / self._numbers([scale])
        return places, numbers

    def _numbers(self, norms: Sequence[torch.Tensor]) -> npt.NDArray[np.float64]:
        """Return 0-dim tensors as numbers: one copy for each device and dtype."""
        if not norms:
            return np.zeros(0)
        try:
            stacked = torch.stack(list(norms))
        except RuntimeError:  # of several devices
            return np.concatenate([self._numbers([norm]) for norm in norms])
        return self._streams.fetch(stacked, ()).double().numpy()


def _by_layer(
    layers: Layers, places: list[int], norms: npt.NDArray[np.float64]
) -> tuple[list[int], npt.NDArray[np.float64]]:
    """Return layers by their number, and the norm of each over its parameters."""
    if not places or layers.one_each:  # no array is made of many numbers
        return places, norms[: len(places)]
    layer_of = layers.of_parameter[places]
    with np.errstate(all="ignore"):
        squares = np.bincount(layer_of, weights=np.square(norms))
        norms = np.sqrt(squares)
    found = np.unique(layer_of)
    return found.tolist(), norms[found]


def _describe(what: str, names: list[str], norms: npt.NDArray[np.float64]) -> str:
    """Return in words which layers have norms that are no finite numbers; "" where none has."""
    bad = [name for name, norm in zip(names, norms.tolist(), strict=True) if norm - norm != 0]
    if not bad:
        return ""
    if len(bad) == len(names):
        return f"the {what} of all {len(names)} layers are bad"
    others = "" if len(bad) == 1 else f", the last {bad[-1]}"
    return f"the first layer with bad {what} is {bad[0]}{others} ({len(bad)} of {len(names)})"
