"""What stands for a value that could not be reduced."""

from __future__ import annotations

import torch


class Unreduced(torch.Tensor):
    """NaN, of which arithmetic makes the same, and which the logging calls leave out.

    So a loop that computes with what it got goes on, and no row has a NaN that is none.
    """


def unreduced() -> torch.Tensor:
    """Return one."""
    return torch.tensor(torch.nan).as_subclass(Unreduced)
