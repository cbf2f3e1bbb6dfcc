"""Lightning, which is there under two names: `lightning.pytorch` and `pytorch_lightning`.

A Trainer of one knows the classes of its own only. It is the one that the script has loaded, or the
one that is there.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def _load() -> Any:
    names = ["lightning.pytorch", "pytorch_lightning"]
    if names[1] in sys.modules and names[0] not in sys.modules:
        names.reverse()
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            missing = error
    raise ImportError(
        "fasttrack.integrations.lightning needs lightning: pip install 'fasttrack[lightning]'"
    ) from missing


pl: Any = _load()
Callback: Any = pl.Callback
Logger: Any = pl.loggers.Logger
AsyncCheckpointIO: Any = pl.plugins.io.AsyncCheckpointIO
SIGTERMException: Any = pl.utilities.exceptions.SIGTERMException
_environments: Any = importlib.import_module(f"{pl.__name__}.plugins.environments")
SLURMEnvironment: Any = _environments.SLURMEnvironment
