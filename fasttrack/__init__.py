"""fasttrack: an experiment tracker that costs a training loop almost nothing and loses nothing.

Names are loaded when they are first used, so that the delivery process, which imports this
package too, never loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fasttrack.context.distributed import is_main_process as is_main_process
    from fasttrack.context.metadata import get_metadata as get_metadata
    from fasttrack.context.seeds import set_seeds as set_seeds
    from fasttrack.errors import ConfigurationError as ConfigurationError
    from fasttrack.errors import DirectoryError as DirectoryError
    from fasttrack.errors import FasttrackError as FasttrackError
    from fasttrack.flops import flops_per_token as flops_per_token
    from fasttrack.media.types import Audio as Audio
    from fasttrack.media.types import Histogram as Histogram
    from fasttrack.media.types import Html as Html
    from fasttrack.media.types import Image as Image
    from fasttrack.media.types import Table as Table
    from fasttrack.media.types import Text as Text
    from fasttrack.media.types import Video as Video
    from fasttrack.options import Options as Options
    from fasttrack.runs.opened import open_run as open_run
    from fasttrack.runs.opened import runs as runs
    from fasttrack.stats import Stats as Stats
    from fasttrack.tracker import ExperimentTracker as ExperimentTracker
    from fasttrack.utilities import compute_grad_norm as compute_grad_norm
    from fasttrack.utilities import get_all_gpu_stats as get_all_gpu_stats
    from fasttrack.utilities import get_amp_scale as get_amp_scale
    from fasttrack.utilities import get_learning_rate as get_learning_rate

__version__ = "0.1.0"

__all__ = [
    "Audio",
    "ConfigurationError",
    "DirectoryError",
    "ExperimentTracker",
    "FasttrackError",
    "Histogram",
    "Html",
    "Image",
    "Options",
    "Stats",
    "Table",
    "Text",
    "Video",
    "compute_grad_norm",
    "flops_per_token",
    "get_all_gpu_stats",
    "get_amp_scale",
    "get_learning_rate",
    "get_metadata",
    "is_main_process",
    "open_run",
    "runs",
    "set_seeds",
]

_HOMES = {
    "Audio": "fasttrack.media.types",
    "ConfigurationError": "fasttrack.errors",
    "DirectoryError": "fasttrack.errors",
    "ExperimentTracker": "fasttrack.tracker",
    "FasttrackError": "fasttrack.errors",
    "Histogram": "fasttrack.media.types",
    "Html": "fasttrack.media.types",
    "Image": "fasttrack.media.types",
    "Options": "fasttrack.options",
    "Stats": "fasttrack.stats",
    "Table": "fasttrack.media.types",
    "Text": "fasttrack.media.types",
    "Video": "fasttrack.media.types",
    "compute_grad_norm": "fasttrack.utilities",
    "flops_per_token": "fasttrack.flops",
    "get_all_gpu_stats": "fasttrack.utilities",
    "get_amp_scale": "fasttrack.utilities",
    "get_learning_rate": "fasttrack.utilities",
    "get_metadata": "fasttrack.context.metadata",
    "is_main_process": "fasttrack.context.distributed",
    "open_run": "fasttrack.runs.opened",
    "runs": "fasttrack.runs",  # a module that can be called: its parts are imported, too
    "set_seeds": "fasttrack.context.seeds",
}


if not TYPE_CHECKING:  # to a type checker it would mean that every name is there

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'fasttrack' has no attribute {name!r}")
        home = importlib.import_module(_HOMES[name])
        return home if home.__name__ == f"fasttrack.{name}" else getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)
