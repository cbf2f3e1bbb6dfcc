"""The machine as the doctor finds it: real repositories, directories and drivers."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.doctors import PATIENT, hide_module, only
from support.runs import run_script

from fasttrack.doctor import Check, Limits, machine


def test_missing_torch_is_a_problem_that_pip_fixes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracker could not even be imported."""
    hide_module("torch", tmp_path / "hidden", monkeypatch)

    found = only(machine.check_torch(PATIENT))

    assert (found.state, found.fix) == ("problem", "pip install torch")


def test_torch_that_takes_too_long_is_only_a_note() -> None:
    """A slow file system is no fault of a tracker's."""
    found = only(machine.check_torch(Limits(torch_s=0.01)))

    assert found.state == "note"
    assert "longer than 0.01 s" in found.text


def look_for_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **state: Any) -> Check:
    """Return what is found in a process where the fake driver has this state."""
    path = tmp_path / "state"
    path.write_text("".join(f"{key} {value}\n" for key, value in {"count": 2, **state}.items()))
    monkeypatch.setenv("FAKE_NVML_STATE", str(path))
    result = run_script(
        """
        import dataclasses, json
        from fasttrack.doctor.machine import check_gpu
        print(json.dumps(dataclasses.asdict(*check_gpu())))
        """,
        fresh=True,
    )
    return Check(**json.loads(result.stdout))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake library of a current driver, compiled."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) here to build the fake NVML library with")
    path = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    source = Path(__file__).parents[2] / "support" / "fake_nvml.c"
    flags = ["-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1", "-o", str(path)]
    subprocess.run([compiler, *flags, str(source)], check=True)
    return path


def test_gpus_that_nvml_knows_are_counted(
    library: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """What cannot be asked of an old driver is unknown; what hides GPUs is named."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library.parent))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")

    found = look_for_gpus(monkeypatch, tmp_path)

    assert found.state == "ok"
    assert found.text == "2 GPUs (unknown), driver unknown; CUDA_VISIBLE_DEVICES='1'"


def test_driver_that_refuses_is_a_note_with_its_reason(
    library: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A run goes on without `gpu/` metrics. 9: the driver is not loaded."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library.parent))

    found = look_for_gpus(monkeypatch, tmp_path, **{"fail.nvmlInitWithFlags": 9})

    assert found.state == "note"
    assert found.text == "no gpu/ metrics: NVML does not start (Driver Not Loaded)"


def test_missing_nvml_package_is_a_note_that_pip_fixes() -> None:
    """It is a dependency, but it may have been left out."""
    result = run_script(
        """
        import dataclasses, json, sys
        from fasttrack.doctor.machine import check_gpu
        sys.modules["pynvml"] = None
        print(json.dumps(dataclasses.asdict(*check_gpu())))
        """,
        fresh=True,
    )
    found = Check(**json.loads(result.stdout))

    assert (found.state, found.fix) == ("note", "pip install nvidia-ml-py")
    assert found.text.startswith("no gpu/ metrics: NVML does not start (")


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that runs git in a new repository, which is the working directory."""
    repository = tmp_path / "repository"
    repository.mkdir()
    monkeypatch.chdir(repository)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "me")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "me@example.org")

    def run(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    run("init", "-q", "-b", "main")
    return run


def test_commit_and_changes_are_named(git: Callable[..., str]) -> None:
    """Of tracked files; others lie around in every repository."""
    empty = only(machine.check_git(PATIENT))
    Path("train.py").write_text("a = 1\n")
    git("add", "train.py")
    git("commit", "-q", "-m", "first")
    Path("untracked.txt").touch()
    clean = only(machine.check_git(PATIENT))
    Path("train.py").write_text("a = 2\n")
    dirty = only(machine.check_git(PATIENT))

    assert "a repository without a commit" in empty.text
    where = f"commit {git('rev-parse', 'HEAD')[:12]} on main"
    assert (clean.state, dirty.state) == ("ok", "ok")
    assert clean.text.endswith(f"{where}, clean")
    assert dirty.text.endswith(f"{where}, 1 changed file, not committed")


def test_no_repository_is_a_note() -> None:
    """Many train without one."""
    found = only(machine.check_git(PATIENT))

    assert found.state == "note"
    assert "no repository here" in found.text


def test_repository_of_someone_else_comes_with_git_s_own_fix(
    git: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on shared disks and in containers. The variable is one of git's own tests."""
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")

    found = only(machine.check_git(PATIENT))

    assert found.state == "note"
    assert found.fix == f"git config --global --add safe.directory {Path.cwd()}"


def test_missing_git_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit is what will miss."""
    monkeypatch.setenv("PATH", str(tmp_path))

    found = only(machine.check_git(PATIENT))

    assert (found.state, found.text[:22]) == ("note", "git is not on PATH: ru")


def test_writable_directory_is_left_as_it_was(tmp_path: Path) -> None:
    """Even `wandb/` is not made; what the disk can do was tried beside it."""
    before = set(tmp_path.rglob("*"))

    found = only(machine.check_directory())

    assert found.state == "ok"
    assert found.text.startswith(f"{tmp_path}/wandb can be written: ")
    assert found.text.endswith(" GiB free; hard links and file locks work")
    assert set(tmp_path.rglob("*")) == before


def test_directory_that_cannot_be_written_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below a file there is no directory, not even for root."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "file"))

    found = only(machine.check_directory())

    assert found.state == "problem"
    assert found.text.startswith(f"{tmp_path}/file/wandb cannot be written: ")
    assert str(found.fix).startswith("export WANDB_DIR=")


def test_slurm_job_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where `scontrol` is not there to be asked for more."""
    outside = only(machine.check_slurm(PATIENT))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_JOB_PARTITION", "a100")

    assert outside.text == "not in a Slurm job"
    assert only(machine.check_slurm(PATIENT)).text == "job 12, step 0, partition a100"
