"""What is noted of a training step that is not logged: the clock, and how much was in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fasttrack.hotpath.advice import describe
from fasttrack.hotpath.records import MOST_TICKS, FellOut, OddSize, WithTokens

if TYPE_CHECKING:
    from fasttrack.hotpath.records import AnyTick
    from fasttrack.quick_calls import QuickCalls


NEVER = -(2**63)
"""A step that none comes before: from it on all calls are looked at by the `StepLogger`."""


def size_of_step(hot: QuickCalls, batch_size: Any, tokens: Any) -> Any:
    """Return what is noted of how much was in a step, where that is not just an int.

    Has the next call come to the `StepLogger`, too, where such a one must be looked at.
    """
    if batch_size is not None and type(batch_size) is not int:
        batch_size = _size_to_keep(batch_size, hot._ticks)
    if tokens is not None or type(batch_size) is OddSize:
        hot._timed_from = NEVER
    return batch_size if tokens is None else WithTokens(batch_size, _tokens_to_keep(tokens))


def _size_to_keep(batch_size: Any, ticks: list[AnyTick]) -> Any:
    """Return a batch size to keep: itself, or what it is. It may be the batch, and large.

    Those of its kind that are among `ticks` already are replaced, too.
    """
    if issubclass(type(batch_size), (float, np.number)):
        return batch_size
    odd = OddSize(describe(batch_size))
    noted: list[AnyTick] = []
    try:
        while True:  # from the end: the worker takes from the beginning
            at_s, size = ticks.pop()
            noted.append((at_s, odd if type(size) is type(batch_size) else size))
            if type(size) is OddSize or type(size) is WithTokens:  # was looked at
                break
    except IndexError:
        pass
    ticks += reversed(noted)
    return odd


def _tokens_to_keep(tokens: Any) -> Any:
    """Return a number of tokens to keep, or what was passed in its place.

    A tensor is read where it lies in the host's memory; elsewhere that would wait for the device.
    """
    kind = type(tokens)
    if kind is int or issubclass(kind, (float, np.number)):
        return tokens
    if isinstance(tokens, torch.Tensor) and tokens.device.type == "cpu" and tokens.numel() == 1:
        return tokens.item()
    return OddSize(describe(tokens))


def shorten(ticks: list[AnyTick]) -> None:
    """Drop the older half of `ticks` where there are too many: nobody takes them so soon."""
    if len(ticks) >= MOST_TICKS:
        for first_s, _ in ticks[:1]:  # none, if the worker has taken all of them meanwhile
            ticks[: MOST_TICKS // 2] = [(first_s, FellOut)]
