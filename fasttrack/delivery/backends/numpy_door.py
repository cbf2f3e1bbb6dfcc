"""Keep numpy out of the delivery process, and let it in for clients that do not work without.

wandb takes numpy in if it is there, for 10 MiB and threads that nothing here needs, and pandas,
which does not work without, for the first value that is an object. TensorBoard, MLflow and trackio
cannot be imported without numpy.
"""

from __future__ import annotations

import os
import sys

_KEPT_OUT = ("numpy", "pandas")


def keep_numpy_out() -> None:
    """Have numpy and pandas look as if they were not installed. Call it before all imports."""
    for name in _KEPT_OUT:
        sys.modules[name] = None  # type: ignore[assignment]


def let_numpy_in() -> None:
    """Undo that. Call it before the client is imported."""
    for name in _KEPT_OUT:
        if name in sys.modules and sys.modules[name] is None:  # kept out, till now
            del sys.modules[name]
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads that nothing here needs
