"""Let numpy in again, which the delivery process keeps out, for clients that do not work without.

wandb takes numpy in if it is there, for 10 MiB and threads that nothing here needs; TensorBoard,
MLflow and trackio cannot be imported without it.
"""

from __future__ import annotations

import os
import sys


def let_numpy_in() -> None:
    """Undo what keeps numpy out of this process. Call it before the client is imported."""
    if "numpy" in sys.modules and sys.modules["numpy"] is None:  # kept out, till now
        del sys.modules["numpy"]
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads that nothing here needs
