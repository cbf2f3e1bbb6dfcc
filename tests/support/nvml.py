"""The fake libnvidia-ml of fake_nvml.c, compiled."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def compile_fake(directory: Path, *flags: str) -> Path:
    """Compile it into `directory` and return it; skip the test where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) here to build the fake NVML library with")
    library = directory / "libnvidia-ml.so.1"
    source = Path(__file__).with_name("fake_nvml.c")
    soname = "-Wl,-soname,libnvidia-ml.so.1"
    command = [compiler, "-shared", "-fPIC", "-Wall", soname, *flags]
    subprocess.run([*command, "-o", str(library), str(source)], check=True)
    return library
