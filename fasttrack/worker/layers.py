"""Norms of each layer: read from the device in one copy, and looked through for bad ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from fasttrack.hotpath.norms import each_norm

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from fasttrack.hotpath.layers import LayerSample, LayerSource
    from fasttrack.hotpath.records import MetricsRecord, Scalar
    from fasttrack.notices import Notices
    from fasttrack.worker.device import SideStreams

GRAD_NORM_OF, PARAM_NORM_OF = "layers/grad_norm/", "layers/param_norm/"
_MOST_TOGETHER = 128  # metrics of one row: the GIL is kept while it is encoded


class BadLayers(NamedTuple):
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

    def look(self, until_s: float) -> tuple[list[MetricsRecord], list[BadLayers]]:
        """Return rows of samples taken before `until_s`, and which layers were bad in them.

        Waits for the device.
        """
        rows: list[MetricsRecord] = []
        bad: list[BadLayers] = []
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
                bad.append(BadLayers(sample.step, sample.at_s, found[1], sample.about_bad))
        return rows, bad

    def _read(self, sample: LayerSample) -> tuple[list[MetricsRecord], str]:
        for device in sample.devices:
            self._streams.enter(device, sample.events)
        gradients = self._of_gradients(sample)
        parameters = self._numbers(sample.parameters)
        of_layers = [
            (GRAD_NORM_OF, "gradients", *_by_layer(sample, sample.places, gradients)),
            (PARAM_NORM_OF, "parameters", *_by_layer(sample, list(sample.turn), parameters)),
        ]
        names = sample.layers.names
        texts = [
            _describe(what, [names[n] for n in layers], norms)
            for _, what, layers, norms in reversed(of_layers)  # parameters go bad first
        ]
        values: dict[str, Scalar] = {}
        if not sample.about_bad:
            for prefix, _, layers, norms in of_layers:
                values.update(zip([prefix + names[n] for n in layers], norms.tolist(), strict=True))
        items = list(values.items())
        rows = [
            (sample.step, sample.at_s, dict(items[start : start + _MOST_TOGETHER]))
            for start in range(0, len(items), _MOST_TOGETHER)
        ]
        return rows, "; ".join(filter(None, texts))

    def _of_gradients(self, sample: LayerSample) -> npt.NDArray[np.float64]:
        norms, versions = sample.gradients, sample.versions
        if versions is not None and norms:
            with torch.no_grad():
                norms = each_norm(norms)
        numbers = self._numbers(norms)
        if versions is not None and versions != [g._version for g in sample.gradients]:
            # As for the norm of all: they are only true if nobody wrote meanwhile.
            self._notices.count("stale")
            self.source.was_stale()
            sample.places.clear()
            return np.zeros(0)
        if sample.scale is not None:
            (scale,) = self._streams.read([sample.scale], ())
            numbers = numbers / scale
        return numbers

    def _numbers(self, norms: Sequence[torch.Tensor]) -> npt.NDArray[np.float64]:
        """Return 0-dim tensors as numbers: one copy for each device and dtype."""
        numbers = np.zeros(len(norms))
        kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for place, norm in enumerate(norms):
            kinds.setdefault((norm.device, norm.dtype), []).append(place)
        for places in kinds.values():
            stacked = torch.stack([norms[place] for place in places])
            numbers[places] = self._streams.fetch(stacked, ()).double().numpy()
        return numbers


def _by_layer(
    sample: LayerSample, places: list[int], norms: npt.NDArray[np.float64]
) -> tuple[list[int], npt.NDArray[np.float64]]:
    """Return layers by their number, and the norm of each over its parameters."""
    if not places:
        return [], norms[:0]
    layer_of = np.asarray(sample.layers.of_parameter)[places]
    with np.errstate(all="ignore"):
        squares = np.bincount(layer_of, weights=np.square(norms))
        norms = np.sqrt(squares)
    layers = np.unique(layer_of)
    return layers.tolist(), norms[layers]


def _describe(what: str, names: list[str], norms: npt.NDArray[np.float64]) -> str:
    """Return in words which layers have norms that are no finite numbers; "" where none has."""
    bad = [name for name, norm in zip(names, norms.tolist(), strict=True) if norm - norm != 0]
    if not bad:
        return ""
    if len(bad) == len(names):
        return f"the {what} of all {len(names)} layers are bad"
    others = "" if len(bad) == 1 else f", the last {bad[-1]}"
    return f"the first layer with bad {what} is {bad[0]}{others} ({len(bad)} of {len(names)})"
