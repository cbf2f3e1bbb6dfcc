"""Compile the small C libraries that are preloaded into a run's processes."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from faults.rig import Skip

if TYPE_CHECKING:
    from pathlib import Path


def build(source: Path, directory: Path) -> Path:
    """Return the library that `source` is compiled to, in `directory`.

    Raises:
        Skip: there is no C compiler.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise Skip("needs a C compiler (cc)")
    library = directory / source.with_suffix(".so").name
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library
