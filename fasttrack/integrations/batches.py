"""What an adapter finds out of a batch: how many samples it has, and how many tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fasttrack.errors import ConfigurationError
from fasttrack.handler_errors import is_handlers
from fasttrack.notices import say

if TYPE_CHECKING:
    from collections.abc import Callable


def samples_of(batch: Any) -> int:
    """Return the length of a batch's first tensor; 0 where none is found at once."""
    for _ in range(3):
        if isinstance(batch, torch.Tensor):
            return len(batch) if batch.dim() else 0
        if isinstance(batch, dict):
            batch = list(batch.values())
        if not isinstance(batch, (list, tuple)) or not batch:
            return 0
        batch = batch[0]
    return 0


class TokenCount:
    """Add up the tokens of a step's batches by the user's function.

    Threads: the training script's.
    """

    def __init__(self, tokens_fn: Callable[[Any], Any] | None) -> None:
        """Count with `tokens_fn`, which takes a batch; None: nothing is counted.

        Raises:
            ConfigurationError: it cannot be called.
        """
        if tokens_fn is not None and not callable(tokens_fn):
            kind = type(tokens_fn).__name__
            raise ConfigurationError(f"tokens_fn must be a function of a batch, not {kind}")
        self._tokens_fn = tokens_fn
        self._tokens: Any = 0

    def add(self, batch: Any) -> None:
        """Count a batch. A function that raises is said, and not called again."""
        if self._tokens_fn is None:
            return
        try:
            self._tokens = self._tokens + self._tokens_fn(batch)
        except Exception as error:  # the user's own
            if is_handlers(error):
                raise
            self._tokens_fn = None
            say(f"tokens are not counted any more: tokens_fn raised {error!r}")

    def take(self) -> dict[str, Any]:
        """Return the argument of `log_training_step` for the step that ends; {}: there is none."""
        tokens, self._tokens = self._tokens, 0
        return {} if self._tokens_fn is None else {"tokens": tokens}
