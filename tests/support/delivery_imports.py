"""What a delivery has imported when its work begins: all but numpy, which some clients ask for.

`fork_server.py` imports this for `runs.deliver`, which calls `main` in a fork. Of the 1.2 s of CPU
that a small delivery takes, wandb's import alone takes 0.75.
"""

from __future__ import annotations

import atexit
import importlib
from typing import TYPE_CHECKING, Any

from fasttrack.delivery import __main__
from fasttrack.delivery.backends.numpy_door import keep_numpy_out

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory

_LATE = (
    "fasttrack.delivery.backends.wandb.backend",
    "wandb.analytics.opentelemetry.opentelemetry_proxy",
    "wandb.apis.public",
    "wandb.proto.wandb_internal_pb2",
)
"""What is imported where it is first needed."""


def _import_all() -> tuple[TemporaryDirectory[str], ...]:
    """Import everything; return the directories that this has made, and that its end removes."""
    keep_numpy_out()
    for name in _LATE:
        importlib.import_module(name)
    from wandb.sdk.artifacts.artifact import Artifact
    from wandb.sdk.data_types._private import MEDIA_TMP

    return (MEDIA_TMP, Artifact._TMP_DIR)


_DIRECTORIES: tuple[Any, ...] = _import_all()
for _directory in _DIRECTORIES:
    _directory.cleanup()  # else the first fork to end would take it from the others


def main() -> int:
    """Deliver what the command line says; return the exit code."""
    for directory in _DIRECTORIES:
        directory.__init__()
        atexit.register(directory.cleanup)
    return __main__.main()
