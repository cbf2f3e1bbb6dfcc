"""The public API's types, as a user's type checker finds them in the installed package.

The files in `cases/` are a user's code. They are no tests to be run, only to be checked.
"""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from shutil import copy, copytree

import pytest
from support.wheel import ROOT, install_wheel

import fasttrack
from fasttrack import ExperimentTracker, Options, Stats

CASES = Path(__file__).parent / "cases"
Codes = dict[int, set[str]]
"""Line number to the codes of its errors."""


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> dict[str, Codes]:
    """Return what `mypy --strict` has to say of each case.

    One run for all: it reads the whole of torch, which takes it 20 s of CPU, or two where a cache
    has kept what it knew: pytest's own, or the project's, where mypy has run before.
    """
    pytest.importorskip("mypy", reason="mypy is not installed")
    pytest.importorskip("setuptools", minversion="77", reason="older ones cannot build the wheel")
    cache = getattr(pytestconfig, "cache", None)  # it may be switched off
    cache_dir = tmp_path_factory.mktemp("mypy") if cache is None else cache.mkdir("mypy")
    if not list(cache_dir.iterdir()) and (ROOT / ".mypy_cache").is_dir():
        copytree(ROOT / ".mypy_cache", cache_dir, dirs_exist_ok=True)
    directory = tmp_path_factory.mktemp("user")
    files = sorted(CASES.glob("*.py"))
    flags = ["--strict", "--no-warn-unused-configs", f"--config-file={_settings(directory)}"]
    flags += [f"--cache-dir={cache_dir}", "--no-pretty"]

    result = subprocess.run(
        [sys.executable, "-m", "mypy", *flags, *map(str, files)],
        cwd=directory,  # the source tree must not be found
        env={**os.environ, "PYTHONPATH": str(install_wheel(directory))},
        capture_output=True,
        text=True,
    )
    assert result.stderr == ""
    errors: dict[str, Codes] = {file.name: defaultdict(set) for file in files}
    for line in result.stdout.splitlines():
        error = re.fullmatch(r"(.+\.py):(\d+): error: .+ \[([\w-]+)\]", line)
        assert error or ": note: " in line or line.startswith(("Found ", "Success")), line
        if error:
            errors[Path(error[1]).name][int(error[2])].add(error[3])
    return errors


def _settings(directory: Path) -> Path:
    """Copy the project's settings of mypy: with others, nothing that it has kept would count.

    Of the source tree they say only where it is, from where they lie: below `directory` is none.
    """
    (directory / "settings").mkdir()
    return Path(copy(ROOT / "pyproject.toml", directory / "settings"))


def expected(case: str) -> Codes:
    """Return what the comments of a case say."""
    lines = (CASES / case).read_text(encoding="utf-8").splitlines()
    comments = {number: line.partition("  # E: ")[2] for number, line in enumerate(lines, 1)}
    return {number: set(codes.split(", ")) for number, codes in comments.items() if codes}


def test_right_uses_are_accepted_and_have_the_types_that_are_documented(
    found: dict[str, Codes],
) -> None:
    """None would be, if `py.typed` were not in the wheel."""
    assert found["right.py"] == {}


def test_wrong_uses_are_refused_each_for_its_own_reason(found: dict[str, Codes]) -> None:
    """What is not told before the job starts is told after it has waited in the queue."""
    assert len(expected("wrong.py")) > 50
    assert found["wrong.py"] == expected("wrong.py")


def test_everything_public_is_used_in_the_cases() -> None:
    """What is added to the API gets a line there."""
    tree = ast.parse((CASES / "right.py").read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    used |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    used |= {str(node.arg) for node in nodes if isinstance(node, ast.keyword)}
    public = {*fasttrack.__all__}
    public |= {name for name in vars(ExperimentTracker) if not name.startswith("_")}
    public |= {field.name for cls in (Options, Stats) for field in dataclasses.fields(cls)}

    assert public - used == set()
