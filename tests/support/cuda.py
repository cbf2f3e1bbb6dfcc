"""What the tests on a real GPU share."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

BUSY_CYCLES = 200_000_000
"""For `torch.cuda._sleep`: about a tenth of a second."""


@contextmanager
def waiting_forbidden() -> Iterator[None]:
    """Make whatever waits for the device raise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "a prototype feature"
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
