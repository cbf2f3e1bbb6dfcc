"""Commands that are printed to be typed: they call this fasttrack, wherever it is installed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fasttrack.command import spell_command, spell_tool

SAYS = 'import fasttrack.command as c; print(c.spell_command("show", "a b"))'


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    """A directory with a program `fasttrack` that prints what it would be called by."""
    directory = tmp_path / "venv" / "bin"
    directory.mkdir(parents=True)
    script = directory / "fasttrack"
    script.write_text(f"#!{sys.executable}\n{SAYS}\n")
    script.chmod(0o755)
    return directory


def say(command: str, *, path: str = "/usr/bin:/bin") -> str:
    """Return what the shell prints of a command with this PATH."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": root}
    result = subprocess.run(
        command, shell=True, capture_output=True, text=True, check=True, env=environment
    )
    return result.stdout.strip()


def test_program_on_the_path_is_called_by_its_name(bin_dir: Path) -> None:
    """What everybody types, and also when it was called by its path or through a link."""
    path = f"{bin_dir}:/usr/bin:/bin"
    link = bin_dir.parent / "fasttrack"
    link.symlink_to(bin_dir / "fasttrack")

    assert say("fasttrack", path=path) == "fasttrack show 'a b'"
    assert say(str(bin_dir / "fasttrack"), path=path) == "fasttrack show 'a b'"
    assert say(str(link), path=path) == "fasttrack show 'a b'"


def test_program_that_is_not_on_the_path_is_called_as_it_was(bin_dir: Path) -> None:
    """As a newcomer did who followed the README's first two commands."""
    assert say("venv/bin/fasttrack") == "venv/bin/fasttrack show 'a b'"


def test_another_program_of_the_name_on_the_path_is_not_meant(bin_dir: Path) -> None:
    """An older installation would not know the run's format."""
    other = bin_dir.parent / "other"
    other.mkdir()
    (other / "fasttrack").write_text("#!/bin/sh\nexit 1\n")
    (other / "fasttrack").chmod(0o755)

    spoken = say("venv/bin/fasttrack", path=f"{other}:/usr/bin:/bin")
    assert spoken == "venv/bin/fasttrack show 'a b'"


def test_module_is_called_as_a_module() -> None:
    """By the Python that runs it, in whose environment it is; the help hint shows it."""
    said = subprocess.run(
        [sys.executable, "-m", "fasttrack", "nosuch"], capture_output=True, text=True
    ).stderr
    hint = said.strip().partition("; see ")[2]

    assert shlex.split(hint)[1:] == ["-m", "fasttrack", "--help"]
    assert subprocess.run(hint, shell=True, capture_output=True).returncode == 0


def test_training_script_names_the_program_beside_its_python() -> None:
    """Whatever the script is called; what it names can be run."""
    program, *arguments = shlex.split(spell_command("--help"))

    assert arguments in (["--help"], ["-m", "fasttrack", "--help"])
    assert subprocess.run([program, *arguments], capture_output=True).returncode == 0


def test_tool_that_is_only_in_the_environment_is_named_by_its_path() -> None:
    """As `wandb` is, where the environment is not activated."""
    name = Path(sys.executable).name
    beside = str(Path(sys.executable).with_name(name))
    code = f"from fasttrack.command import spell_tool; print(spell_tool({name!r}, 'sync'))"
    spoken = say(shlex.join([sys.executable, "-c", code]), path="/nowhere:/bin")
    where = subprocess.run(
        ["/bin/sh", "-c", f"PATH=/nowhere:/bin command -v {name}"], capture_output=True, text=True
    ).stdout.strip()

    assert spoken == (f"{name} sync" if where else f"{beside} sync")
    assert spell_tool("no-such-tool", "x y") == "no-such-tool 'x y'"
