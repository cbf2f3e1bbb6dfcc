"""The backends by name: the table that settings are checked against and delivery opens from.

Loads none of them; the training process reads the names only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fasttrack.delivery.backends.base import Backend, Place

BACKENDS = {
    "wandb": "fasttrack.delivery.backends.wandb.backend:WandbBackend",
    "tensorboard": "fasttrack.delivery.backends.tensorboard.backend:TensorBoardBackend",
    "memory": "fasttrack.delivery.backends.memory:MemoryBackend",
}
"""Name -> module:class; the class is called with a `Place`."""

TAKES_ARTIFACTS = frozenset(("wandb", "memory"))
"""The backends whose `takes_artifacts` is true: for the others no files are staged."""

MEMORY = "memory"
"""The backend that keeps rows in the process itself, which only makes sense in the trainer."""

NONE = "none"
"""The name that stands for no backend: the journal only."""


def make_backend(name: str, place: Place) -> Backend:
    """Return the backend `name` for one run; nothing is opened yet.

    Raises:
        KeyError: there is none of that name.
    """
    module, _, cls = BACKENDS[name].partition(":")
    backend: Backend = getattr(importlib.import_module(module), cls)(place)
    return backend
