"""The package as users install it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

ROOT = Path(__file__).parents[2]
_BUILD = (
    "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
)


def install_wheel(directory: Path) -> Path:
    """Build a wheel from the source tree and unpack it; return a folder for `PYTHONPATH`.

    Uses the setuptools that is installed, and no network; what the package needs is not installed.

    Args:
        directory: an empty one to work in.
    """
    tree, target = directory / "tree", directory / "site-packages"
    for folder in ("fasttrack", "examples"):
        copytree(ROOT / folder, tree / folder, ignore=ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        copy(ROOT / file, tree)
    command = [sys.executable, "-c", _BUILD, str(directory)]
    result = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    with zipfile.ZipFile(directory / result.stdout.splitlines()[-1]) as archive:
        archive.extractall(target)
    return target
