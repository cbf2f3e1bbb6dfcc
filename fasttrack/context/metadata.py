"""What somebody needs to know to repeat a run: code, seeds, job, versions, machine.

May be called from any thread, beside training: nothing is imported that is not loaded yet (but
for NVML's small module), CUDA is never initialised, and what waits gives up the GIL.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import socket
import sys
from typing import Any

from fasttrack.context.config import to_plain
from fasttrack.context.distributed import get_world_size
from fasttrack.context.git import describe_repository
from fasttrack.context.nvml import nvml_session
from fasttrack.context.seeds import describe_seeds
from fasttrack.errors import NvmlUnavailableError
from fasttrack.redaction import redact, redact_argv

_PACKAGES = ("fasttrack", "torch", "numpy", "deepspeed", "wandb")
_PACKAGES_IF_LOADED = (
    "accelerate",
    "datasets",
    "flash_attn",
    "lightning",
    "pytorch_lightning",
    "torchvision",
    "transformers",
    "triton",
)
_SLURM_TEXTS = {
    "job_id": ("SLURM_JOB_ID", "SLURM_JOBID"),
    "job_name": ("SLURM_JOB_NAME",),
    "array_job_id": ("SLURM_ARRAY_JOB_ID",),
    "array_task_id": ("SLURM_ARRAY_TASK_ID",),
    "step_id": ("SLURM_STEP_ID", "SLURM_STEPID"),
    "node_list": ("SLURM_JOB_NODELIST", "SLURM_NODELIST"),
    "partition": ("SLURM_JOB_PARTITION",),
    "tasks_per_node": ("SLURM_TASKS_PER_NODE",),  # "2(x2)"
    "gpus": ("SLURM_JOB_GPUS",),
    "cluster": ("SLURM_CLUSTER_NAME",),
    "account": ("SLURM_JOB_ACCOUNT",),
    "submit_host": ("SLURM_SUBMIT_HOST",),
    "submit_dir": ("SLURM_SUBMIT_DIR",),
}
_SLURM_NUMBERS = {
    "num_nodes": ("SLURM_JOB_NUM_NODES", "SLURM_NNODES"),
    "num_tasks": ("SLURM_NTASKS", "SLURM_NPROCS"),
    "cpus_per_task": ("SLURM_CPUS_PER_TASK",),
    "gpus_on_node": ("SLURM_GPUS_ON_NODE",),
    "restart_count": ("SLURM_RESTART_COUNT",),
}
# Names, never patterns: nothing gets in that nobody has thought of.
_ENVIRONMENT = (
    "CONDA_DEFAULT_ENV",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_DEVICE_ORDER",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES",
    "GLOO_SOCKET_IFNAME",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "HIP_VISIBLE_DEVICES",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MKL_NUM_THREADS",
    "NCCL_ALGO",
    "NCCL_CUMEM_ENABLE",
    "NCCL_DEBUG",
    "NCCL_IB_DISABLE",
    "NCCL_IB_HCA",
    "NCCL_NET",
    "NCCL_NET_GDR_LEVEL",
    "NCCL_NVLS_ENABLE",
    "NCCL_P2P_DISABLE",
    "NCCL_PROTO",
    "NCCL_SHM_DISABLE",
    "NCCL_SOCKET_IFNAME",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "PYTHONHASHSEED",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "RANK",
    "ROCR_VISIBLE_DEVICES",
    "TOKENIZERS_PARALLELISM",
    "TORCHDYNAMO_DISABLE",
    "TORCHELASTIC_MAX_RESTARTS",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_RUN_ID",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_COMPILE_DISABLE",
    "TORCH_DISTRIBUTED_DEBUG",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    "TORCH_NCCL_BLOCKING_WAIT",
    "WORLD_SIZE",
)


def get_metadata(config: Any = None) -> dict[str, Any]:
    """Return what is known of this process that it takes to repeat its run. Never raises.

    Made of dicts, lists, strings, numbers and bools only. Secrets are redacted, and of the
    environment only a fixed list of variables is in it. Blocks on git (milliseconds, 10 s at the
    very most) and on the NVIDIA driver; uses no network.

    Args:
        config: the training configuration in any form, to be included.

    Returns:
        `git` (`commit`, `branch`, `dirty`, `remote`; None without a repository), `seeds`, `slurm`
        (None outside a job), `versions`, `host` (`gpus` are all that NVIDIA's driver shows,
        whether visible to CUDA or not), `environment`, `argv`, `world_size`, and `config` if given.
    """
    metadata: dict[str, object] = {
        "git": describe_repository(),
        "seeds": describe_seeds(),
        "slurm": _describe_slurm_job(),
        "versions": _list_versions(),
        "host": _describe_host(),
        "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        "argv": redact_argv(sys.argv),
        "world_size": get_world_size(),
    }
    if config is not None:
        metadata["config"] = config
    return redact(to_plain(metadata))  # type: ignore[no-any-return]


def _describe_slurm_job() -> dict[str, str | int | None] | None:
    job: dict[str, str | int | None] = {
        key: _first_set(names) for key, names in _SLURM_TEXTS.items()
    }
    if job["job_id"] is None:
        return None
    for key, names in _SLURM_NUMBERS.items():
        text = _first_set(names)
        job[key] = int(text) if text and text.isdecimal() else text
    job["restart_count"] = job["restart_count"] or 0  # Slurm sets it from the first requeue on
    return job


def _first_set(names: tuple[str, ...]) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)


def _list_versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    versions |= {name: _version(name) for name in _PACKAGES}
    versions |= {name: _version(name) for name in _PACKAGES_IF_LOADED if name in sys.modules}
    torch: Any = sys.modules.get("torch")
    nccl: Any = sys.modules.get("torch.cuda.nccl")
    versions |= dict.fromkeys(("cuda", "hip", "cudnn", "nccl"))
    with contextlib.suppress(AttributeError, RuntimeError):  # a build without CUDA, a broken cuDNN
        versions["cuda"] = torch.version.cuda
        versions["hip"] = torch.version.hip
        versions["cudnn"] = torch.backends.cudnn.version()
        versions["nccl"] = ".".join(map(str, nccl.version()))
    return versions


def _version(name: str) -> str | None:
    loaded = getattr(sys.modules.get(name), "__version__", None)
    if loaded is not None:
        return str(loaded)
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _describe_host() -> dict[str, object]:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return {
        "hostname": socket.gethostname(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "cpu_count_usable": len(affinity(0)) if affinity else os.cpu_count(),
        **_describe_gpus(),
    }


def _describe_gpus() -> dict[str, object]:
    found: dict[str, object] = {"gpus": [], "driver": None}
    with (
        contextlib.suppress(NvmlUnavailableError),
        nvml_session() as nvml,
        contextlib.suppress(nvml.NVMLError),  # a lost GPU
    ):
        handles = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
        found["gpus"] = [nvml.nvmlDeviceGetName(handle) for handle in handles]
        found["driver"] = nvml.nvmlSystemGetDriverVersion()
    return found
