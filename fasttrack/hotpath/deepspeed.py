"""What DeepSpeed computes by itself: the gradient norm of its last step, and fp16's loss scale.

The engine takes both from its optimizer, the one that `deepspeed.initialize` returns, so either
object will do. Gradients are never read instead: after `engine.step()` they are gone, and until a
step's last micro-batch each rank holds others. DeepSpeed is not imported here.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

_AT_STAGE_0 = (  # in float32: a torch optimizer takes the step, then the engine drops the gradients
    "at ZeRO stage 0 in float32 call torch.nn.utils.get_total_norm before engine.step() and pass "
    "grad_norm="
)


def deepspeed_norm(
    model: Any, optimizer: Any, warn: Callable[[str, str], None]
) -> tuple[bool, torch.Tensor | float | None]:
    """Return whether DeepSpeed trains here, and the norm over all ranks, None before a step.

    Args:
        model: DeepSpeed's engine, or any other model.
        optimizer: DeepSpeed's optimizer, or any other; used where `model` is not the engine.
        warn: called with (key, text) if DeepSpeed will never know the norm.
    """
    # Of the type: asking a module for what it does not have takes microseconds.
    if hasattr(type(model), "get_global_grad_norm"):
        norm = model.get_global_grad_norm()
        if norm is not None:
            return True, norm
        optimizer = getattr(model, "optimizer", None)
    elif not hasattr(optimizer, "_global_grad_norm"):
        return False, None
    norm = getattr(optimizer, "_global_grad_norm", None)
    if norm is None:
        warn(
            "grad_norm",
            "train/grad_norm: DeepSpeed computes no norm with this configuration: leave "
            f"compute_grad_norm=false out, or {_AT_STAGE_0}",
        )
    elif type(norm) is float and norm == 0.0:
        norm = None  # what it is before the first step
    return True, norm


def deepspeed_loss_scale(optimizer: Any) -> float | None:
    """Return the loss scale of DeepSpeed's optimizer; None where it, or another, has none.

    In fp16 that is the scale of the next step. In bf16 and float32 DeepSpeed says 1.
    """
    scale = getattr(optimizer, "loss_scale", None)
    return scale if isinstance(scale, (int, float)) and scale != 1 else None


def why_there_are_no_gradients() -> str:
    """Return the warning for a model that is no engine and holds no gradients."""
    why = (
        "train/grad_norm: the model holds no gradients when log_training_step is called; call it "
        "before zero_grad(), or pass grad_norm=clip_grad_norm_(...)"
    )
    if "deepspeed" in sys.modules:
        why += f"; with DeepSpeed pass the engine as model, or {_AT_STAGE_0}"
    return why
