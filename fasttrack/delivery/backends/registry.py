"""The backends by name: the table that settings are checked against and delivery opens from.

Loads none of them; the training process reads the names only.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
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
    needs: str | None = None
    """The package that must be there before a run begins, of the extra that is called like the
    backend; None: a run that lacks its client is recorded all the same."""


BACKENDS = {
    "wandb": Known("wandb.backend", "WandbBackend", takes_artifacts=True, has_offline=True),
    "tensorboard": Known("tensorboard.backend", "TensorBoardBackend", takes_artifacts=False),
    "mlflow": Known("mlflow.backend", "MlflowBackend", takes_artifacts=True, needs="mlflow"),
    "trackio": Known("trackio.backend", "TrackioBackend", takes_artifacts=False, needs="trackio"),
    "memory": Known("memory", "MemoryBackend", takes_artifacts=True, has_offline=True),
}

MEMORY = "memory"
"""The backend that keeps rows in the process itself, which only makes sense in the trainer."""

NONE = "none"
"""The name that stands for no backend: the journal only."""


def missing_package(name: str) -> str | None:
    """Return the package without which the backend `name` cannot work, if it is not installed.

    Looks for it, and imports nothing.

    Raises:
        KeyError: there is no backend of that name.
    """
    package = BACKENDS[name].needs
    if package is None:
        return None
    try:
        found = find_spec(package)
    except ValueError:  # it is imported, and somebody's stand-in for it
        return None
    # A folder of that name, where runs may well lie, is none.
    return package if found is None or found.origin is None else None


def make_backend(name: str, place: Place) -> Backend:
    """Return the backend `name` for one run; nothing is opened yet.

    Raises:
        KeyError: there is none of that name.
    """
    known = BACKENDS[name]
    module = importlib.import_module(f"fasttrack.delivery.backends.{known.module}")
    backend: Backend = getattr(module, known.class_name)(place)
    return backend
