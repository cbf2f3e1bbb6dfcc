"""An environment in which nothing of the user's is read or written, and no network is reached."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_PROXY = "http://127.0.0.1:9"  # "discard": nothing listens there
_ENVIRONMENT = {
    "COMET_ERROR_TRACKING_ENABLE": "false",
    "COMET_URL_OVERRIDE": _NO_PROXY,
    "DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    "http_proxy": _NO_PROXY,
    "https_proxy": _NO_PROXY,
    "no_proxy": "127.0.0.1,localhost",
}
_DIRECTORIES = ("HOME", "WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR")
_CLEARED = (
    "AIM_",
    "COMET_",
    "FASTTRACK_",
    "HF_",
    "MLFLOW_",
    "SWANLAB_",
    "TRACKIO_",
    "WANDB_",
    "XDG_",
)


@contextlib.contextmanager
def private_home() -> Iterator[Path]:
    """Give all trackers of this process an empty home directory, and silence.

    Telemetry is off, and what asks the network all the same meets a proxy that does not answer. The
    environment stays so afterwards: what trackers leave for the interpreter's exit obeys it, too.
    """
    prefix = "fasttrack-bench-"
    # Trackers' threads that outlive their run may still write while the directory is removed.
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name:
        for variable in [key for key in os.environ if key.startswith(_CLEARED)]:
            del os.environ[variable]
        os.environ.update(_ENVIRONMENT, **dict.fromkeys(_DIRECTORIES, name))
        yield Path(name)
