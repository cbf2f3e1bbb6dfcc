"""fasttrack: an experiment tracker that costs a training loop almost nothing and loses nothing.

Names are loaded when they are first used, so that the delivery process, which imports this
package too, never loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fasttrack.context.distributed import is_main_process as is_main_process
    from fasttrack.errors import ConfigurationError as ConfigurationError
    from fasttrack.errors import DirectoryError as DirectoryError
    from fasttrack.errors import FasttrackError as FasttrackError
    from fasttrack.options import Options as Options
    from fasttrack.stats import Stats as Stats
    from fasttrack.tracker import ExperimentTracker as ExperimentTracker

__version__ = "0.1.0"

__all__ = [
    "ConfigurationError",
    "DirectoryError",
    "ExperimentTracker",
    "FasttrackError",
    "Options",
    "Stats",
    "is_main_process",
]

_HOMES = {
    "ConfigurationError": "fasttrack.errors",
    "DirectoryError": "fasttrack.errors",
    "ExperimentTracker": "fasttrack.tracker",
    "FasttrackError": "fasttrack.errors",
    "Options": "fasttrack.options",
    "Stats": "fasttrack.stats",
    "is_main_process": "fasttrack.context.distributed",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fasttrack' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
