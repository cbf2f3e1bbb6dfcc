"""The losses of single steps on a real GPU: none is waited for, and each is as it was noted."""

from __future__ import annotations

import math

import pytest
import torch
from support.cuda import BUSY_CYCLES, waiting_forbidden

from fasttrack.integrations.loss_watch import LossWatch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_losses_travel_to_the_host_by_themselves(dtype: torch.dtype) -> None:
    """From a stream that nobody waits for, and overwritten right behind the call."""
    found: list[tuple[int, float]] = []
    watch = LossWatch(lambda step, loss: found.append((step, loss)))
    loss = torch.zeros((), device="cuda", dtype=dtype)
    torch.cuda.synchronize()
    with waiting_forbidden():
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda._sleep(BUSY_CYCLES)
            for step in range(40):
                loss.fill_(math.inf if step in (7, 39) else 1.0)
                watch.note(step, loss)
            loss.zero_()
        watch.look(idle=True)  # of another stream
    assert found == []
    watch.settle()

    assert found == [(7, math.inf), (39, math.inf)]
