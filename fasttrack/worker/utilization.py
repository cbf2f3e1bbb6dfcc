"""What of a device's peak the training reaches: FLOP/s from what a token or a sample takes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from fasttrack.context.peak_flops import peak_flops

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.options import Options


class Utilization:
    """Turn a rank's throughput into `perf/tflops` and `perf/mfu`.

    MFU, model FLOPs utilization, is what PaLM (arXiv 2204.02311, appendix B) defines: the observed
    throughput, relative to that of a device at its peak. Only what the model needs counts, not what
    is computed twice to spare memory. A rank is taken to train on one device.

    Threads: worker only.
    """

    def __init__(
        self,
        options: Options,
        device_name: Callable[[], str | None],
        warn: Callable[[str, str], None],
    ) -> None:
        """Prepare.

        Args:
            options: say what a token or a sample takes, and what the device could do.
            device_name: asked until it tells what the training runs on.
            warn: called with (key, text) for what the user should hear once.
        """
        self._per_token = options.flops_per_token
        self._per_sample = options.flops_per_sample
        self._wanted = options.peak_flops
        self._device_name = device_name
        self._warn = warn
        self._peak: float | None = None
        self._unknown = False

    def __bool__(self) -> bool:
        """Return whether there is anything to tell."""
        return self._per_token is not None or self._per_sample is not None

    def metrics(self, tokens_per_s: float | None, samples_per_s: float | None) -> dict[str, float]:
        """Return the metrics of one rank's throughput; None where that is not known."""
        each, rate, argument = self._per_token, tokens_per_s, "tokens"
        if each is None:
            each, rate, argument = self._per_sample, samples_per_s, "batch_size"
        if each is None:
            return {}
        if rate is None:
            self._warn(
                "flops",
                f"no perf/tflops yet: it takes {argument}= at every call of log_training_step",
            )
            return {}
        flops_per_s = each * rate
        metrics = {"perf/tflops": flops_per_s / 1e12}
        if self._peak is None and not self._unknown:
            self._find_peak()
        if self._peak is not None:
            metrics["perf/mfu"] = 100 * flops_per_s / self._peak
        return metrics

    def _find_peak(self) -> None:
        if not isinstance(self._wanted, str):
            self._peak = float(self._wanted)
            return
        name = self._device_name()
        if name is None:
            what = "no GPU is in use"
        else:
            self._peak = peak_flops(name, self._wanted)
            self._unknown = self._peak is None
            what = f"the peak of {name!r} is not known"
            if self._wanted != "auto":
                what += f" in {self._wanted}"
        if self._peak is None:
            self._warn(
                "peak_flops",
                f"no perf/mfu: {what}; pass Options(peak_flops=...), one device's FLOP/s",
            )


def find_device_name(index: int | None) -> str | None:
    """Return the name of the GPU of that index, or the first; None where none is in use yet."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return str(torch.cuda.get_device_name(index or 0))
