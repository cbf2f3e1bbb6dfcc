"""Find a model's gradients for the grad norm, and compute the norm.

`grad_norm="worker"` sends references to the gradients through the ring; `"inline"` launches the
fused norm on the caller's thread and sends its 0-dim result. `"auto"` takes the worker, whose work
overlaps with the next step, with two exceptions that go inline: gradients above
`grad_hold_limit_gb`, because holding them past `zero_grad` could run the device out of memory; and
a few MiB on the CPU, where the norm itself costs the step less than handing the GIL to the worker
and back for each of its operations (measured: bench/README.md).

Where DeepSpeed trains, it is asked for the norm instead.
"""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Any

import torch

from fasttrack.hotpath.deepspeed import deepspeed_norm, why_there_are_no_gradients
from fasttrack.hotpath.records import Gradients

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_RELIST_EVERY = 256  # logged steps after which a model's parameters are listed anew
_CPU_INLINE_BYTES = 4 * 2**20
_STALE_LIMIT = 2  # stale norms in a row after which the worker mode gives way to inline


class GradientSource:
    """Answer "what is the gradient norm of this model now?" for the hot path.

    Threads: any caller; the worker only calls `was_stale` and `was_valid`.
    """

    def __init__(
        self,
        mode: str,
        hold_limit_bytes: int,
        warn: Callable[[str, str], None],
        *,
        cpu_inline_bytes: int = _CPU_INLINE_BYTES,
    ) -> None:
        """Set the mode ("auto", "worker", "inline" or "off").

        Args:
            mode: the user's choice.
            hold_limit_bytes: in "auto", gradients above this total go inline.
            warn: called with (key, text) for what the user should hear once.
            cpu_inline_bytes: in "auto", gradients on the CPU up to this total go inline, too.
        """
        self._mode = mode
        self._cpu_inline_bytes = cpu_inline_bytes
        self._hold_limit_bytes = hold_limit_bytes
        self._warn = warn
        # caller thread
        self._model: weakref.ref[torch.nn.Module] | None = None
        self._parameters: list[torch.Tensor] = []
        self._devices: frozenset[torch.device] = frozenset()
        self._alike = False
        self._effective = "off"
        self._age = 0
        # worker thread
        self._stale_in_a_row = 0

    def capture(self, model: Any, optimizer: Any = None) -> Gradients | torch.Tensor | float | None:
        """Return references (worker), a 0-dim norm (inline), what DeepSpeed knows, or None.

        Blocks on nothing on an accelerator; inline on the CPU it computes the norm here.

        Args:
            model: the module that holds the gradients, or a DeepSpeed engine.
            optimizer: the step's optimizer; DeepSpeed's own knows the norm where `model` is only
                the engine's module.
        """
        if self._mode == "off":
            return None
        trains_here, norm = deepspeed_norm(model, optimizer, self._warn)
        if trains_here:
            return norm
        self._age += 1
        if self._model is None or self._model() is not model or self._age >= _RELIST_EVERY:
            self._list_parameters(model)
        if self._effective == "off":
            return None
        gradients = [grad for p in self._parameters if (grad := p.grad) is not None]
        if not gradients:
            self._warn("grad_norm", why_there_are_no_gradients())
            return None
        if self._effective == "inline":
            return fused_norm(gradients, alike=self._alike)
        versions = [grad._version for grad in gradients]
        return Gradients(gradients, versions, self._devices, self._alike)

    def _list_parameters(self, model: Any) -> None:
        self._age = 0
        if not isinstance(model, torch.nn.Module):
            self._effective = "off"
            self._model = None
            self._warn("grad_norm", f"model must be a torch.nn.Module, not {type(model).__name__}")
            return
        self._model = weakref.ref(model, self._forget)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._devices = frozenset(p.device for p in self._parameters if not p.is_cpu)
        self._alike = len({(p.device, p.dtype, type(p)) for p in self._parameters}) == 1
        why = why_local_norm_is_wrong(model, self._parameters)
        if why:
            self._effective = "off"
            self._warn("grad_norm", f"train/grad_norm is not computed: {why}")
            return
        if self._mode == "auto":
            total = sum(p.numel() * p.element_size() for p in self._parameters)
            tiny = not self._devices and total <= self._cpu_inline_bytes
            inline = tiny or total > self._hold_limit_bytes
            self._effective = "inline" if inline else "worker"
        else:
            self._effective = self._mode
        if self._stale_in_a_row >= _STALE_LIMIT:
            self._effective = "inline"

    def _forget(self, model: weakref.ref[torch.nn.Module]) -> None:
        if self._model is model:
            self._parameters = []

    def was_stale(self) -> None:
        """Note that gradients changed before the worker had read them."""
        self._stale_in_a_row += 1
        if self._stale_in_a_row == _STALE_LIMIT and self._effective == "worker":
            self._effective = "inline"
            self._warn(
                "grad_norm_stale",
                "train/grad_norm: gradients change in place before the worker reads them "
                "(zero_grad(set_to_none=False), DDP's bucket views?); it is now launched inline",
            )

    def was_valid(self) -> None:
        """Note that the worker read gradients in time."""
        if self._stale_in_a_row < _STALE_LIMIT:
            self._stale_in_a_row = 0


def why_local_norm_is_wrong(model: Any, parameters: Iterable[torch.Tensor]) -> str | None:
    """Return why the norm of one rank's gradients is not the model's, and the fix; else None."""
    # A collective on rank 0's worker would hang the job. The modules are looked up, not imported:
    # a model can only be of a class that is loaded.
    fix = "pass grad_norm=, e.g. the value that clip_grad_norm_ returns"
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None and any(
        isinstance(m, fsdp.FullyShardedDataParallel) for m in model.modules()
    ):
        return f"FSDP shards the gradients; {fix}"
    for p in parameters:
        if hasattr(p, "full_tensor") and type(p) is not torch.nn.Parameter:
            return f"a parameter is a sharded DTensor; {fix}"
        if hasattr(p, "ds_id") or hasattr(p, "_hp_mapping"):  # stage 3, stages 1 and 2
            return "DeepSpeed ZeRO partitions the gradients; pass the engine as model"
    return None


def fused_norm(gradients: list[torch.Tensor], *, alike: bool = False) -> torch.Tensor:
    """Return the L2 norm over all `gradients` as a 0-dim tensor, without synchronising.

    One `torch._foreach_norm` per device and dtype, as `torch.nn.utils.get_total_norm` does; half
    precision is accumulated in float32, sparse gradients count their (coalesced) values.

    Args:
        gradients: at least one tensor; devices, dtypes and layouts may be mixed.
        alike: whether they probably share device and dtype and are dense. Asking each of them
            costs a small model more than its norm.
    """
    with torch.no_grad():
        if alike:
            try:
                return _norm_of(_norms(gradients, gradients[0].dtype))
            except RuntimeError:  # sparse gradients
                pass
        groups: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
        for grad in gradients:
            dense = grad.coalesce().values() if grad.is_sparse else grad
            groups.setdefault((grad.device, grad.dtype), []).append(dense)
        ordered = sorted(groups.items(), key=lambda group: group[1][0].is_cpu)
        norms: list[torch.Tensor] = []
        # Accelerators first: the partial norms meet on the first device, and a copy from the host
        # to it needs no wait, as one to the host would.
        for (_, dtype), tensors in ordered:
            norms.extend(_norms(tensors, dtype))
        if len(groups) > 1:
            device, doubled = norms[0].device, any(n.dtype == torch.float64 for n in norms)
            widest = torch.float64 if doubled else torch.float32
            norms = [n.to(device=device, dtype=widest, non_blocking=True) for n in norms]
        return _norm_of(norms)


def _norms(gradients: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    return list(torch._foreach_norm(gradients, 2, dtype=wide))


def _norm_of(norms: list[torch.Tensor]) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm
