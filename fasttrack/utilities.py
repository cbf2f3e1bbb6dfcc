"""The tracker's measurements as functions, for use without a tracker. These may wait."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch

from fasttrack.errors import ConfigurationError, ValueRefusedError
from fasttrack.hotpath.deepspeed import deepspeed_loss_scale
from fasttrack.hotpath.norms import fused_norm, whole, why_local_norm_is_wrong
from fasttrack.worker.gpu import GpuSampler

if TYPE_CHECKING:
    _Parameters = torch.Tensor | Iterable[torch.Tensor]

_MOST_GPUS = 64


def compute_grad_norm(model_or_parameters: torch.nn.Module | _Parameters) -> float:
    """Return the L2 norm over all gradients as they are now; 0.0 if there are none.

    Waits for the device. In a loop rather pass `model` to `log_training_step`, which does not.

    Args:
        model_or_parameters: a model, its parameters, or one parameter. A DeepSpeed engine is asked
            for the norm that it computed itself, over all ranks, in its last `step()`.

    Raises:
        ConfigurationError: it is nothing of that kind, or this process holds a part of the
            gradients only (FSDP, ZeRO, DTensor), or an engine has no norm and no gradients.
    """
    ask_engine = getattr(model_or_parameters, "get_global_grad_norm", None)
    if ask_engine is not None:
        norm = ask_engine()
        if norm is not None:
            return float(norm)
    model, parameters = _list_parameters(model_or_parameters)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    why = why_local_norm_is_wrong(model, parameters)
    if ask_engine is not None and (why or not gradients):
        why = (
            "DeepSpeed knows no norm, or none yet; ask after its step(), or before step() at ZeRO "
            "stage 0 in float32, for which it never computes one"
        )
    if why:
        raise ConfigurationError(f"compute_grad_norm does not see the whole gradients: {why}")
    try:
        return float(fused_norm([whole(gradient) for gradient in gradients])) if gradients else 0.0
    except ValueRefusedError as error:
        raise ConfigurationError(
            f"compute_grad_norm does not see the whole gradients: {error}"
        ) from error


def _list_parameters(given: Any) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    if isinstance(given, torch.nn.Module):
        return given, list(given.parameters())
    several = isinstance(given, Iterable) and not isinstance(given, torch.Tensor)
    parameters = [*given] if several else [given]
    for parameter in parameters:
        if not isinstance(parameter, torch.Tensor):
            raise ConfigurationError(
                "model_or_parameters must be a torch.nn.Module or its parameters, not "
                f"{type(parameter).__name__}"
            )
    return torch.nn.Module(), parameters


def get_learning_rate(optimizer: Any) -> float:
    """Return the learning rate of the first parameter group.

    Waits for the device only where the learning rate is a tensor on one.

    Args:
        optimizer: an optimizer, or what has one as `.optimizer`: a DeepSpeed engine, a scheduler.

    Raises:
        ConfigurationError: it has no parameter groups.
    """
    for holder in (optimizer, getattr(optimizer, "optimizer", None)):
        groups = getattr(holder, "param_groups", None)
        if groups:
            return float(groups[0]["lr"])
    raise ConfigurationError(
        f"optimizer must be a torch optimizer or hold one, not {type(optimizer).__name__}"
    )


def get_amp_scale(scaler: Any) -> float | None:
    """Return the loss scale of mixed precision, None where there is none. Waits for the device.

    Args:
        scaler: None, a GradScaler (1.0 if it is disabled), DeepSpeed's engine or its optimizer.

    Raises:
        ConfigurationError: it is nothing of that kind.
    """
    if scaler is None:
        return None
    if callable(getattr(scaler, "get_scale", None)):
        return float(scaler.get_scale())
    for holder in (scaler, getattr(scaler, "optimizer", None)):
        scale = deepspeed_loss_scale(holder)
        if scale is not None:
            return float(scale)
    if not hasattr(scaler, "loss_scale"):  # DeepSpeed's have it, whatever it is
        raise ConfigurationError(f"scaler must be a GradScaler, not {type(scaler).__name__}")
    return None


def get_all_gpu_stats() -> dict[str, float]:
    """Return the statistics of the GPUs that are visible to this process; {} without any.

    Blocks on the NVIDIA driver for some milliseconds: NVML is started and stopped. Never
    initialises CUDA, never raises.

    Returns:
        `gpu/utilization` (percent), `gpu/memory_used_gb` and `gpu/memory_peak_gb` (units of 2**30
        bytes; used by all processes, peak of this one), `gpu/temperature` (Celsius) and
        `gpu/power_w` of the GPU that this process computes on; where several are visible, the same
        of each as `gpu/0/utilization` and so on, in CUDA's order.
    """
    cuda: Any = torch.cuda  # annotated in part only
    most = cuda.device_count() if cuda.is_initialized() else _MOST_GPUS
    sampler = GpuSampler(lambda _: None)
    try:
        stats = sampler.sample(None)
        each = list(takewhile(bool, map(sampler.sample, range(most))))
    finally:
        sampler.close()
    if len(each) > 1:
        for index, row in enumerate(each):
            stats |= {f"gpu/{index}/{name[4:]}": value for name, value in row.items()}
    return stats
