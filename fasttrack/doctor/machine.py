"""What `fasttrack doctor` asks about the machine: torch, GPUs, git, the disk, Slurm."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from fasttrack.context.nvml import nvml_session
from fasttrack.doctor.check import Check, Limits, ask
from fasttrack.errors import NvmlUnavailableError
from fasttrack.settings import resolve_base_dir

_GIB = 2**30
_DESCRIBE_TORCH = """
import json, torch
build = torch.version.cuda and f"CUDA {torch.version.cuda}"
build = build or (torch.version.hip and f"ROCm {torch.version.hip}")
print(json.dumps([torch.__version__, build, torch.cuda.device_count()]))
"""


def check_torch(limits: Limits) -> list[Check]:
    """Return torch's version and build, and the devices it sees."""
    try:
        result = ask([sys.executable, "-c", _DESCRIBE_TORCH], limits.torch_s)
    except subprocess.TimeoutExpired:
        text = f"importing torch takes longer than {limits.torch_s:g} s: a slow file system?"
        return [Check("torch", "note", text)]
    except OSError as error:
        return [Check("torch", "problem", f"{sys.executable} cannot be started: {error}")]
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["it crashed"])[-1][:300]
        fix = "pip install torch"
        return [Check("torch", "problem", f"torch cannot be imported: {reason}", fix)]
    version, build, devices = json.loads(result.stdout.splitlines()[-1])
    if not build:
        return [Check("torch", "ok", f"torch {version}, built for the CPU only")]
    text = f"torch {version}, built for {build}, sees {devices} GPU{'s' * (devices != 1)}"
    if devices:
        return [Check("torch", "ok", text)]
    return [Check("torch", "note", text, "nvidia-smi")]


def check_gpu() -> list[Check]:
    """Return the driver and the GPUs that NVML knows, which `gpu/` metrics come from."""
    try:
        with nvml_session() as nvml:
            return [_judge_gpus(nvml)]
    except NvmlUnavailableError as error:
        missing = isinstance(error.__cause__, ImportError)
        fix = "pip install nvidia-ml-py" if missing else None
        return [Check("gpu", "note", f"no gpu/ metrics: {error}", fix)]


def _judge_gpus(nvml: Any) -> Check:
    try:
        count = nvml.nvmlDeviceGetCount()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    except nvml.NVMLError as error:
        return Check("gpu", "note", f"GPUs cannot be listed: {error}", "nvidia-smi")
    names = sorted({_ask_nvml(nvml, "nvmlDeviceGetName", handle) for handle in handles})
    driver = _ask_nvml(nvml, "nvmlSystemGetDriverVersion")
    text = f"{count} GPU{'s' * (count != 1)} ({', '.join(names) or 'none'}), driver {driver}"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        text += f"; CUDA_VISIBLE_DEVICES={visible!r}"
    return Check("gpu", "ok" if count else "note", text)


def _ask_nvml(nvml: Any, function: str, *arguments: Any) -> str:
    try:
        return str(getattr(nvml, function)(*arguments))
    except nvml.NVMLError:
        return "unknown"


def check_git(limits: Limits) -> list[Check]:
    """Return git's version, and the commit that a run started here would name."""
    if shutil.which("git") is None:
        text = "git is not on PATH: runs will not name their commit"
        return [Check("git", "note", text, "apt install git (or: module load git)")]
    status = ["git", "--no-optional-locks", "status", "--porcelain=v2", "--branch", "-uno"]
    try:
        version = ask(["git", "--version"], limits.tool_s).stdout.split()[-1:]
        result = ask(status, limits.tool_s)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Check("git", "note", f"git does not answer: {error}")]
    name = " ".join(["git", *version])
    if result.returncode:
        return [_judge_git_failure(name, result.stderr)]
    lines = result.stdout.splitlines()
    facts = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# branch."))
    changes = sum(not line.startswith("#") for line in lines)
    commit = facts.get("branch.oid", "")
    if commit == "(initial)":
        return [Check("git", "note", f"{name}; a repository without a commit", "git commit")]
    text = f"{name}; commit {commit[:12]} on {facts.get('branch.head')}"
    state = f"{changes} changed file{'s' * (changes != 1)}, not committed" if changes else "clean"
    return [Check("git", "ok", f"{text}, {state}")]


def _judge_git_failure(name: str, said: str) -> Check:
    if "dubious ownership" in said:
        fix = re.search(r"git config --global .*", said)  # git says it itself
        text = f"{name} refuses this repository: it is someone else's"
        return Check("git", "note", text, fix and fix[0])
    if "not a git repository" in said:
        return Check("git", "note", f"{name}; no repository here: runs will not name a commit")
    return Check("git", "note", f"{name}: {' '.join(said.split())[:300]}")


def check_directory() -> list[Check]:
    """Return whether runs can be written where they belong, and what the disk can do."""
    target = resolve_base_dir() / "wandb"
    fix = "export WANDB_DIR=/a/directory/that/can/be/written"
    try:
        existing = next(path for path in (target, *target.parents) if path.exists())
        with tempfile.TemporaryDirectory(prefix=".fasttrack-doctor-", dir=existing) as scratch:
            faults = _try_disk(Path(scratch))
        free_gb = shutil.disk_usage(existing).free / _GIB
    except OSError as error:
        return [Check("directory", "problem", f"{target} cannot be written: {error}", fix)]
    text = f"{target} can be written: {_file_system(existing)}, {free_gb:,.1f} GiB free"
    if faults:
        return [Check("directory", "note", f"{text}; {'; '.join(faults)}", fix)]
    if free_gb < 1:
        return [Check("directory", "note", text, fix)]
    return [Check("directory", "ok", f"{text}; hard links and file locks work")]


def _try_disk(scratch: Path) -> list[str]:
    """Return what does not work in `scratch`.

    Raises:
        OSError: files cannot be written at all.
    """
    faults = []
    file = scratch / "file"
    with file.open("wb") as writing:
        writing.write(b"fasttrack doctor")
        try:
            fcntl.flock(writing, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            faults.append(f"no file locks ({error.strerror}): never sync a run twice at a time")
    try:
        os.link(file, scratch / "link")
    except OSError as error:
        faults.append(f"no hard links ({error.strerror}): checkpoints are copied to be uploaded")
    return faults


def _file_system(path: Path) -> str:
    """Return the type of the file system that holds `path`, such as "ext4" or "nfs4"."""
    number = path.stat().st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        mounts = []
    found = (m.split(" - ")[1].split()[0] for m in mounts if m.split()[2] == device)
    return next(found, "file system unknown")


def check_slurm(limits: Limits) -> list[Check]:
    """Return the Slurm job that this process is part of."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return [Check("slurm", "ok", "not in a Slurm job")]
    names = {"step": "STEP_ID", "partition": "JOB_PARTITION", "restart": "RESTART_COUNT"}
    found = {label: os.environ.get(f"SLURM_{name}") for label, name in names.items()}
    parts = [f"job {job}", *(f"{label} {value}" for label, value in found.items() if value)]
    try:
        config = ask(["scontrol", "show", "config"], limits.tool_s).stdout.splitlines()
        parts += [line.split("=")[1].strip() for line in config if line.startswith("ProctrackType")]
    except (OSError, subprocess.TimeoutExpired):
        pass  # it only would have been nice to know
    return [Check("slurm", "ok", ", ".join(parts))]
