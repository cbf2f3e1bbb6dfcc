"""Checkpoints saved again and again under one name, as trainers do, by every kind of saver."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.runs import deliver, make_tracker, run_dir, wait_until
from support.wandb_server import WandbServer

pytestmark = pytest.mark.server

VALUES = 400_000  # of a float32 tensor: more than what is copied at once


def weights(version: int) -> torch.Tensor:
    """Return what a version holds."""
    return torch.full((VALUES,), float(version))


def torch_file(root: Path, version: int) -> Path:
    """Save as most scripts do, always to one file."""
    torch.save({"weights": weights(version)}, root / "checkpoint.pt")
    return root / "checkpoint.pt"


def torch_directory(root: Path, version: int) -> Path:
    """Save weights, and beside them a file that only grows."""
    torch_file(root, version)
    with (root / "log.txt").open("a") as file:
        file.write(f"saved {version}\n")
    return root


def distributed(root: Path, version: int) -> Path:
    """Save with torch.distributed.checkpoint, always to one directory."""
    from torch.distributed.checkpoint.state_dict_saver import save

    save({"weights": weights(version)}, checkpoint_id=root / "dcp", no_dist=True)
    return root / "dcp"


def numpy_file(root: Path, version: int) -> Path:
    """Save an array, always to one file."""
    np.save(root / "weights.npy", weights(version).numpy())
    return root / "weights.npy"


def safetensors_file(root: Path, version: int) -> Path:
    """Save with safetensors, which writes a new file each time."""
    torch_savers = pytest.importorskip("safetensors.torch")
    torch_savers.save_file({"weights": weights(version)}, root / "model.safetensors")
    return root / "model.safetensors"


def json_config(root: Path, version: int) -> Path:
    """Rewrite a small and a large JSON file."""
    for name, size in (("config.json", 1), ("vocabulary.json", 300_000)):
        with (root / name).open("w") as file:
            json.dump({"version": version, "words": [version] * size}, file)
    return root


def deepspeed_layout(root: Path, version: int) -> Path:
    """Save into a folder per step, and rewrite `latest`, as DeepSpeed does."""
    folder = root / f"global_step{version}"
    folder.mkdir()
    torch.save({"weights": weights(version)}, folder / "mp_rank_00_model_states.pt")
    (root / "latest").write_text(folder.name)
    return root


def rotating(root: Path, version: int) -> Path:
    """Keep the newest of the folders `checkpoint-N` only, as transformers do."""
    folder = root / f"checkpoint-{version}"
    folder.mkdir()
    torch.save(weights(version), folder / "optimizer.pt")
    if version:
        shutil.rmtree(root / f"checkpoint-{version - 1}")
    return folder


SAVERS = [
    torch_file,
    torch_directory,
    distributed,
    numpy_file,
    safetensors_file,
    json_config,
    deepspeed_layout,
    rotating,
]


def contents(path: Path) -> dict[str, bytes]:
    """Return what a checkpoint holds now, by the names that it has in an artifact."""
    if path.is_file():
        return {path.name: path.read_bytes()}
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def versions_of(server: WandbServer) -> list[Any]:
    """Return the committed versions of the model, oldest first."""
    return [a for a in server.artifacts if a.type == "model" and a.state == "COMMITTED"]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # one process, as meant here
@pytest.mark.filterwarnings("ignore:Detected an existing checkpoint")  # saved over, as meant here
@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize("save", SAVERS, ids=lambda save: save.__name__)
def test_every_version_saved_under_one_name_arrives_as_it_was(
    server: WandbServer, tmp_path: Path, save: Callable[[Path, int], Path], mode: str
) -> None:
    """Three in a row, without a pause; then the trainer's own are deleted."""
    root = tmp_path / "checkpoints"
    root.mkdir()
    expected = []
    with make_tracker(mode=mode) as tracker:
        for version in range(3):
            path = save(root, version)
            expected.append(contents(path))
            alias = "best" if version == 1 else f"try{version}"
            tracker.log_checkpoint(path, aliases=[alias], force=True)
            tracker.log_training_step(1.0, version)
        shutil.rmtree(root)
        failed = tracker.stats().failed_calls
    if mode == "offline":
        assert deliver(run_dir(tmp_path, tracker.get_run_id()), fresh=True)["delivered"]

    found = versions_of(server)
    assert failed == 0
    assert [artifact.files for artifact in found] == expected
    assert [sorted(artifact.aliases) for artifact in found] == [
        ["try0"],
        ["best"],
        ["latest", "try2"],
    ]
    assert not (run_dir(tmp_path, tracker.get_run_id()) / "artifacts").exists()


def test_a_version_is_saved_over_while_the_one_before_is_on_its_way(
    server: WandbServer, tmp_path: Path
) -> None:
    """As after a pause of seconds: each save comes when the last version has arrived."""
    expected = []
    with make_tracker(mode="online") as tracker:
        for version in range(3):
            path = torch_file(tmp_path, version)
            expected.append(contents(path))
            tracker.log_checkpoint(path, force=True)
            wait_until(lambda: len(versions_of(server)) == len(expected))

    assert [artifact.files for artifact in versions_of(server)] == expected


def test_a_large_file_saved_over_at_once_three_times_arrives_whole(
    server: WandbServer, tmp_path: Path
) -> None:
    """Copied in several pieces, all of it real."""
    path = tmp_path / "checkpoint.pt"
    digests = []
    with make_tracker(mode="online") as tracker:
        for version in range(3):
            piece = bytes([version]) * 2**20
            with path.open("wb") as file:
                for _ in range(150):
                    file.write(piece)
            digest = hashlib.md5(piece * 150, usedforsecurity=False).digest()
            digests.append(base64.b64encode(digest).decode())
            tracker.log_checkpoint(path, aliases=[f"try{version}"], force=True)
        path.unlink()

    found = versions_of(server)
    assert [max(artifact.aliases) for artifact in found] == ["try0", "try1", "try2"]
    assert [artifact.manifest["checkpoint.pt"] for artifact in found] == [
        (150 * 2**20, digest) for digest in digests
    ]
