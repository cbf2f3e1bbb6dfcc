"""Run ids and run names."""

from __future__ import annotations

import random
import re
import subprocess
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from fasttrack.context.naming import make_run_id, make_run_name

TAGS = {"model": "eo1", "dataset": "lego", "objective": "ar+fm", "experiment_group": "baseline"}
NOW = datetime(2026, 1, 23, 14, 30, 52)


def git(*arguments: str) -> str:
    """Run git in the working directory; return what it printed."""
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    result = subprocess.run(
        ["git", *identity, *arguments], check=True, capture_output=True, text=True
    )
    return result.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make the working directory a git repository of one commit; return its hash."""
    directory = tmp_path / "repository"
    directory.mkdir()
    monkeypatch.chdir(directory)
    git("init", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "first")
    return git("rev-parse", "HEAD")


@pytest.fixture
def _no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)


def test_run_id_is_of_the_form_that_wandb_makes() -> None:
    """8 lower-case letters and digits, of which all occur and none twice as often as chance."""
    ids = [make_run_id() for _ in range(500)]

    assert all(re.fullmatch(r"[a-z0-9]{8}", run_id) for run_id in ids)
    assert len(set(ids)) == len(ids)
    assert len(set("".join(ids))) == 36


def numpy_state() -> list[int]:
    """Return the state of NumPy's global generator."""
    state = np.random.get_state(legacy=False)
    assert isinstance(state, dict)
    numbers: list[int] = state["state"]["key"].tolist()
    return numbers


def test_run_id_leaves_seeded_generators_untouched() -> None:
    """Tracking must not change an experiment, and two runs of one seed must not share an id."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    before = (random.getstate(), numpy_state(), torch.get_rng_state().tolist())

    first = make_run_id()

    after = (random.getstate(), numpy_state(), torch.get_rng_state().tolist())
    assert after == before
    random.seed(0)
    assert make_run_id() != first


def test_run_name_ends_with_the_commit(repository: str) -> None:
    """`{model}_{objective}_{dataset}_{YYYYMMDD}_{HHMMSS}_{git_short}`."""
    assert make_run_name("p", TAGS, NOW) == f"eo1_ar+fm_lego_20260123_143052_{repository[:6]}"


def test_detached_head_has_a_commit_too(repository: str) -> None:
    """Clusters often run a checked-out commit, on no branch."""
    git("commit", "-q", "--allow-empty", "-m", "second")
    git("checkout", "-q", "--detach", repository)

    assert make_run_name("p", TAGS, NOW).endswith(f"_143052_{repository[:6]}")


def test_commit_is_found_from_a_subdirectory(
    repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scripts are started from anywhere in the tree."""
    Path("scripts").mkdir()
    monkeypatch.chdir("scripts")

    assert make_run_name("p", TAGS, NOW).endswith(repository[:6])


def test_repository_without_a_commit_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`git init` alone gives no HEAD."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q")

    assert make_run_name("p", TAGS, NOW) == "eo1_ar+fm_lego_20260123_143052"


@pytest.mark.usefixtures("_no_repository")
def test_outside_a_repository_the_commit_is_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    """No dangling underscore, and git's complaint is not shown."""
    assert make_run_name("p", TAGS, NOW) == "eo1_ar+fm_lego_20260123_143052"
    assert capfd.readouterr() == ("", "")


def test_without_git_the_commit_is_left_out(
    repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container often has no git."""
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))

    assert make_run_name("p", TAGS, NOW) == "eo1_ar+fm_lego_20260123_143052"


def test_git_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead network file system must not hold up the constructor."""
    stuck = tmp_path / "bin" / "git"
    stuck.parent.mkdir()
    stuck.write_text("#!/bin/sh\nexec sleep 600\n")
    stuck.chmod(0o755)
    monkeypatch.setenv("PATH", str(stuck.parent), prepend=":")

    assert make_run_name("p", TAGS, NOW, git_timeout_s=0.05) == "eo1_ar+fm_lego_20260123_143052"


@pytest.mark.usefixtures("_no_repository")
@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ({"model": "eo1"}, "eo1_20260123_143052"),
        ({"dataset": "lego", "model": "eo1"}, "eo1_lego_20260123_143052"),
        ({"model": "", "objective": "ar", "dataset": "lego"}, "ar_lego_20260123_143052"),
        ({"experiment_group": "baseline"}, "vla-lego_20260123_143052"),
        ({}, "vla-lego_20260123_143052"),
    ],
)
def test_missing_tags_are_left_out_of_the_name(tags: dict[str, str], name: str) -> None:
    """With other required tags some of the usual parts are not there; without any, the project."""
    assert make_run_name("vla-lego", tags, NOW) == name
