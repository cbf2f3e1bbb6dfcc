"""The backends by name: the table that settings are checked against and delivery opens from.

Loads none of them; the training process reads the names only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fasttrack.delivery.backends.base import Backend, Place


class Known(NamedTuple):
    """What is known of a backend without loading it."""

    module: str
    """In this package."""
    class_name: str
    """Of the backend, which is called with a `Place`."""
    takes_artifacts: bool
    """As the class says; the trainer stages files for those that do."""
    has_offline: bool = False
    """As the class says; rows of an offline run can be sent to those beside its own delivery."""


BACKENDS = {
    "wandb": Known("wandb.backend", "WandbBackend", takes_artifacts=True, has_offline=True),
    "tensorboard": Known("tensorboard.backend", "TensorBoardBackend", takes_artifacts=False),
    "memory": Known("memory", "MemoryBackend", takes_artifacts=True, has_offline=True),
}

MEMORY = "memory"
"""The backend that keeps rows in the process itself, which only makes sense in the trainer."""

NONE = "none"
"""The name that stands for no backend: the journal only."""


def make_backend(name: str, place: Place) -> Backend:
    """Return the backend `name` for one run; nothing is opened yet.

    Raises:
        KeyError: there is none of that name.
    """
    known = BACKENDS[name]
    module = importlib.import_module(f"fasttrack.delivery.backends.{known.module}")
    backend: Backend = getattr(module, known.class_name)(place)
    return backend
