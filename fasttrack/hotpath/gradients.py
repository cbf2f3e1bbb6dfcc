"""Find a model's gradients for the grad norm, and decide who computes it.

`grad_norm="worker"` sends references to the gradients through the ring; `"inline"` launches the
fused norm on the caller's thread and sends its 0-dim result. `"auto"` takes the worker, whose work
overlaps with the next step, except for a few MiB on the CPU, where the norm itself costs the step
less than handing the GIL to the worker and back for each of its operations (measured:
bench/README.md). Inline go, too:

* gradients that would make the worker hold more than `grad_hold_limit_gb`, together with those of
  steps that it has not come to yet: held past `zero_grad` they could run the device out of memory;
* gradients that change in place before the worker reads them. One of them, the smallest, is kept
  until the next logged step, which sees it (in "auto" the first step is inline, so that no norm is
  lost to finding out); where the worker is first to see it, it tells;
* gradients that a GradScaler has not yet unscaled. It is about to, in place, and their versions
  would not tell.

Where DeepSpeed trains, it is asked for the norm instead.
"""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING, Any

import torch

from fasttrack.errors import ValueRefusedError
from fasttrack.handler_errors import is_handlers
from fasttrack.hotpath.deepspeed import deepspeed_norm, why_there_are_no_gradients
from fasttrack.hotpath.loss_scale import LossScales, ScaleUnknownError
from fasttrack.hotpath.norms import (
    is_distributed,
    launch_norm,
    size_bytes,
    whole,
    why_local_norm_is_wrong,
)
from fasttrack.hotpath.parameters import ParameterList
from fasttrack.hotpath.records import Gradients

if TYPE_CHECKING:
    from collections.abc import Callable

CPU_INLINE_BYTES = 4 * 2**20
# Read in C, one after another: in Python it takes three times as long.
_tensor: Any = torch.Tensor  # whose attributes are descriptors in C
_gradient_of = _tensor.grad.__get__
_index_of = _tensor.get_device
_version_of = _tensor._version.__get__


class GradientSource:
    """Answer "what is the gradient norm of this model now?" for the hot path.

    Threads: any caller; the worker only calls `was_stale` and `was_read`.
    """

    def __init__(
        self,
        mode: str,
        hold_limit_bytes: int,
        warn: Callable[[str, str], None],
        *,
        cpu_inline_bytes: int = CPU_INLINE_BYTES,
    ) -> None:
        """Set the mode ("auto", "worker", "inline" or "off").

        Args:
            mode: the user's choice.
            hold_limit_bytes: of gradients that the worker is let hold. "worker" may exceed it with
                one step's, not with several.
            warn: called with (key, text) for what the user should hear once.
            cpu_inline_bytes: in "auto", gradients on the CPU up to this total go inline, too.
        """
        self._mode = mode
        self._cpu_inline_bytes = cpu_inline_bytes
        self._hold_limit_bytes = hold_limit_bytes
        self._warn = warn
        # caller thread
        self._models: dict[int, _Model] = {}
        self._scales = LossScales() if mode != "off" else None
        self._sent_bytes: dict[int, int] = {}  # by thread, so that none needs a lock
        # worker thread
        self._read_bytes = 0
        self._change_in_place = False

    def capture(
        self, model: Any, optimizer: Any = None, scaler: Any = None
    ) -> Gradients | torch.Tensor | float | None:
        """Return references (worker), a 0-dim norm (inline), what DeepSpeed knows, or None.

        Blocks on nothing on an accelerator; inline on the CPU it computes the norm here.

        Args:
            model: the module that holds the gradients, or a DeepSpeed engine.
            optimizer: the step's optimizer. DeepSpeed's own knows the norm where `model` is only
                the engine's module; torch's tells with `scaler` whether the gradients are scaled.
            scaler: the step's GradScaler.
        """
        scales = self._scales
        if scales is None:
            return None
        trains_here, norm = deepspeed_norm(model, optimizer, self._warn)
        if trains_here:
            return norm
        known = self._models.get(id(model))
        if known is None or not known.listed.is_still(model):
            if not isinstance(model, torch.nn.Module):
                why = f"model must be a torch.nn.Module, not {type(model).__name__}"
                self._warn("grad_norm", why)
                return None
            known = self._list(model)
        if known.refused:
            return None
        gradients = [g for g in map(_gradient_of, known.listed.parameters) if g is not None]
        if not gradients:
            self._warn("grad_norm", why_there_are_no_gradients())
            return None
        if known.has_dtensors:
            gradients = [whole(gradient) for gradient in gradients]
        first = gradients[0]
        if first.is_cuda and torch.cuda.is_current_stream_capturing():
            raise ValueRefusedError("nothing can be logged while a CUDA graph is being captured")
        try:
            scale = scales.scale_of(scaler, optimizer, known.listed)
        except ScaleUnknownError as error:
            self._warn("grad_norm_scale", str(error))
            return None
        except Exception as error:  # of what is no scaler: the norm stands for itself
            if is_handlers(error):
                raise
            if hasattr(type(scaler), "unscale_"):
                raise  # it is one, and the gradients may be scaled: no norm, and it is said
            scale = None
        kind = (len(gradients), first.device, first.dtype)
        if known.kind != kind:
            known.look_at(gradients, kind)
        if scale is not None or self._goes_inline(known) or self._may_change(known, gradients):
            return self._launch(gradients, scale, alike=known.alike)
        if known.may_move and (indices := {*map(_index_of, gradients)}) != known.indices:
            known.indices = indices
            known.devices = _accelerators(gradients)
        return self._send(gradients, known.devices, known.size_bytes, alike=known.alike)

    def scale_of(self, scaler: Any, optimizer: Any, listed: ParameterList) -> torch.Tensor | None:
        """Return what the gradients of a model are multiplied by; None where by nothing.

        Raises:
            ScaleUnknownError: it cannot be known.
        """
        if self._scales is not None:
            return self._scales.scale_of(scaler, optimizer, listed)
        if scaler is None:
            return None
        raise ScaleUnknownError("Options.grad_norm is off")

    def _list(self, model: torch.nn.Module) -> _Model:
        key = id(model)
        known = _Model(ParameterList(model, lambda _: self._models.pop(key, None)))
        why = why_local_norm_is_wrong(model, known.listed.parameters)
        if why:
            known.refused = True
            self._warn("grad_norm", f"train/grad_norm is not computed: {why}")
        self._models[key] = known
        return known

    def _goes_inline(self, known: _Model) -> bool:
        if self._mode == "inline" or self._change_in_place:
            return True
        size = known.size_bytes
        if self._mode == "auto":
            if size > self._hold_limit_bytes:
                return True
            if known.on_cpu and size <= self._cpu_inline_bytes:
                return True
        held = sum(list(self._sent_bytes.values())) - self._read_bytes
        return held > 0 and held + size > self._hold_limit_bytes

    def _may_change(self, known: _Model, gradients: list[torch.Tensor]) -> bool:
        last, version, index = known.kept, known.version, known.index
        known.keep(gradients)
        if last is None:
            return self._mode == "auto"
        if last._version != version or last.get_device() != index:  # the model may have moved
            self._say_in_place()
            return True
        # The same memory again, though no version tells who wrote it: a CUDA graph.
        return last is known.kept

    def _launch(
        self, gradients: list[torch.Tensor], scale: torch.Tensor | None, *, alike: bool
    ) -> Gradients | torch.Tensor:
        parts = launch_norm(gradients, alike=alike)
        (norm, *more) = parts
        if not more and not norm.is_sparse:
            if scale is None:
                return norm
            if scale.is_cpu or scale.device == norm.device:
                return norm / (scale.item() if scale.is_cpu else scale)
        # The worker puts it together: here that would wait for a device.
        copied = None if scale is None else scale.detach().clone()
        devices = _accelerators(parts if copied is None else [*parts, copied])
        return self._send(parts, devices, sum(map(size_bytes, parts)), scale=copied)

    def _send(
        self,
        tensors: list[torch.Tensor],
        devices: frozenset[torch.device],
        total_bytes: int,
        *,
        alike: bool = False,
        scale: torch.Tensor | None = None,
    ) -> Gradients:
        versions = list(map(_version_of, tensors))
        thread = get_ident()
        self._sent_bytes[thread] = self._sent_bytes.get(thread, 0) + total_bytes
        return Gradients(tensors, versions, devices, alike, total_bytes, scale)

    def was_dropped(self, gradients: Gradients) -> None:
        """Note that what `capture` returned is not sent to the worker after all."""
        self._sent_bytes[get_ident()] -= gradients.size_bytes

    def close(self) -> None:
        """Let go of models and optimizers, and capture nothing more."""
        scales, self._scales = self._scales, None
        if scales is not None:
            scales.close()
        self._models.clear()

    # --- worker thread ------------------------------------------------------------------------

    def was_read(self, gradients: Gradients) -> None:
        """Note, once or twice, that the worker is done with gradients, and let go of them."""
        if gradients.tensors:
            self._read_bytes += gradients.size_bytes
            gradients.tensors.clear()

    def was_stale(self) -> None:
        """Note that gradients changed before the worker had read them."""
        self._say_in_place()

    def _say_in_place(self) -> None:
        self._change_in_place = True
        self._warn(
            "grad_norm_stale",
            "train/grad_norm: gradients change in place before the worker reads them "
            "(zero_grad(set_to_none=False), accumulation, clipping after the log, DDP's bucket "
            "views, a model that moves?); it is now launched inline",
        )


class _Model:
    """What is known of one model's gradients."""

    __slots__ = (
        "_smallest",
        "alike",
        "devices",
        "has_dtensors",
        "index",
        "indices",
        "kept",
        "kind",
        "listed",
        "may_move",
        "on_cpu",
        "refused",
        "size_bytes",
        "version",
    )

    def __init__(self, listed: ParameterList) -> None:
        self.listed = listed
        self.refused = False
        self.has_dtensors = any(map(is_distributed, listed.parameters))
        self.may_move = torch.accelerator.current_accelerator() is not None
        """Whether there is anywhere but the CPU."""
        self.kind: tuple[int, torch.device, torch.dtype] | None = None
        """How many gradients there were, and the first one's; all else was found then."""
        self.alike = False
        self.on_cpu = False
        self.size_bytes = 0
        self.indices: set[int] = set()
        self.devices: frozenset[torch.device] = frozenset()
        self._smallest = 0
        self.kept: torch.Tensor | None = None
        """The smallest gradient of the last logged step, its version and its device then."""
        self.version = 0
        self.index = -1

    def look_at(
        self, gradients: list[torch.Tensor], kind: tuple[int, torch.device, torch.dtype]
    ) -> None:
        self.kind = kind
        sizes = [size_bytes(gradient) for gradient in gradients]
        self.size_bytes = sum(sizes)
        self._smallest = sizes.index(min(sizes))
        self.alike = len({(g.device, g.dtype, g.layout, type(g)) for g in gradients}) == 1
        self.on_cpu = all(gradient.is_cpu for gradient in gradients)

    def keep(self, gradients: list[torch.Tensor]) -> None:
        self.kept = gradients[self._smallest]
        self.version = self.kept._version
        self.index = self.kept.get_device()


def _accelerators(tensors: list[torch.Tensor]) -> frozenset[torch.device]:
    return frozenset([tensor.device for tensor in tensors if not tensor.is_cpu])
