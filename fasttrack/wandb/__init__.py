"""A stand-in for W&B's client: `import fasttrack.wandb as wandb`, and a script goes on as it is.

It has the names that training scripts call, with the meanings of wandb 0.31: what `log` makes of
`step` and `commit` is in `rows.py`. What it does not know is said once by its name, and does
nothing; nothing here raises but `init`, where an argument is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fasttrack.wandb import util as util
from fasttrack.wandb.alerts import AlertLevel as AlertLevel
from fasttrack.wandb.artifact import Artifact as Artifact
from fasttrack.wandb.calls import alert as alert
from fasttrack.wandb.calls import define_metric as define_metric
from fasttrack.wandb.calls import finish as finish
from fasttrack.wandb.calls import log as log
from fasttrack.wandb.calls import log_artifact as log_artifact
from fasttrack.wandb.calls import log_model as log_model
from fasttrack.wandb.calls import login as login
from fasttrack.wandb.calls import mark_preempting as mark_preempting
from fasttrack.wandb.calls import require as require
from fasttrack.wandb.calls import save as save
from fasttrack.wandb.calls import setup as setup
from fasttrack.wandb.calls import teardown as teardown
from fasttrack.wandb.calls import unwatch as unwatch
from fasttrack.wandb.calls import use_artifact as use_artifact
from fasttrack.wandb.calls import watch as watch
from fasttrack.wandb.config_object import Config as Config
from fasttrack.wandb.media import Audio as Audio
from fasttrack.wandb.media import Graph as Graph
from fasttrack.wandb.media import Histogram as Histogram
from fasttrack.wandb.media import Html as Html
from fasttrack.wandb.media import Image as Image
from fasttrack.wandb.media import Molecule as Molecule
from fasttrack.wandb.media import Object3D as Object3D
from fasttrack.wandb.media import Plotly as Plotly
from fasttrack.wandb.media import Table as Table
from fasttrack.wandb.media import Video as Video
from fasttrack.wandb.run_object import Run as Run
from fasttrack.wandb.said import termerror as termerror
from fasttrack.wandb.said import termlog as termlog
from fasttrack.wandb.said import termwarn as termwarn
from fasttrack.wandb.start import Settings as Settings
from fasttrack.wandb.start import init as init
from fasttrack.wandb.unknown import CommError as CommError
from fasttrack.wandb.unknown import Error as Error
from fasttrack.wandb.unknown import UsageError as UsageError
from fasttrack.wandb.unknown import errors as errors

if TYPE_CHECKING:
    from fasttrack.wandb.config_object import Config as _Config
    from fasttrack.wandb.summary_object import Summary as _Summary

    run: Run | None
    config: _Config
    summary: _Summary

__version__ = "0.31.0"
"""Of the client whose meanings these are: scripts compare it with what they need."""

join = finish


def __getattr__(name: str) -> Any:
    from fasttrack.wandb import calls, unknown

    if name in ("run", "config", "summary"):
        return getattr(calls.CURRENT, name)
    return unknown.named(f"wandb.{name}", name)
