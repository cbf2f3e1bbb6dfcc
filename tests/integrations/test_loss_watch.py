"""The losses of single steps, on the host and on an accelerator that is simulated."""

from __future__ import annotations

import json
import math

import torch
from support.runs import run_script

from fasttrack.integrations.loss_watch import LossWatch


def test_losses_on_the_host_are_looked_at_at_once() -> None:
    """Reading them waits for nobody."""
    found: list[tuple[int, float]] = []
    watch = LossWatch(lambda step, loss: found.append((step, loss)))
    for step, loss in enumerate((0.5, math.inf, 2.0)):
        watch.note(step, torch.tensor(loss, dtype=torch.bfloat16))

    assert found == [(1, math.inf)]


_ON_DEVICE = """
import json, sys, torch
from support import toy_streams as toy
kept = toy.install()
from fasttrack.integrations.loss_watch import LossWatch

empty = torch.empty
if sys.argv[1] == "pinned":  # as CUDA has it
    torch.empty = lambda *args, pin_memory=False, **more: empty(*args, **more)
found, told = [], []
watch = LossWatch(lambda step, loss: found.append(step))
loss, ones = torch.ones(()).to("toy"), torch.ones(()).to("toy")
toy.Queue.standing = True  # from here on, whoever waits gets an exception
for step in range(40):
    loss.fill_(float("nan") if step in (7, 33) else 1.0)
    watch.note(step, loss)
    watch.look()
    loss.zero_()  # the next step's
told.append(list(found))
toy.Queue.run()
watch.look()
told.append(list(found))
watch.look(idle=True)
told.append(list(found))
loss.fill_(float("inf"))
watch.note(40, loss)
watch.settle()
told.append(list(found))
toy.Queue.standing = True
with toy.Queue.on(toy.Stream("toy")):  # which the default stream does not wait for
    watch.note(41, ones * 2)
watch.note(42, ones * float("inf"))
toy.Queue.run_only(toy.Queue.default)
watch.look(idle=True)
told.append(list(found))
toy.Queue.run()
watch.settle()
told.append(list(found))
print(json.dumps(told))
"""


_FOUND = [7, 33, 40]


def test_losses_on_a_device_travel_to_the_host_and_nobody_waits() -> None:
    """Each as it was when it was noted; where the device is idle, the last few come, too.

    And none before the stream that it was noted on, though others have been idle for long.
    """
    result = run_script(_ON_DEVICE, "pinned", warnings="default")

    assert json.loads(result.stdout) == [[], [7], [7, 33], _FOUND, _FOUND, [*_FOUND, 42]]


def test_losses_on_a_device_without_pinned_memory_are_read_when_it_is_idle() -> None:
    """The Trainer has just waited for it whenever it reports a loss."""
    result = run_script(_ON_DEVICE, "pageable", warnings="default")

    assert json.loads(result.stdout) == [[], [], [7, 33], _FOUND, _FOUND, [*_FOUND, 42]]
