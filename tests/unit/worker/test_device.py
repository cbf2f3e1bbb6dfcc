"""Reading from an accelerator: in order, without anybody waiting, and never a wrong number.

The accelerator is simulated (`support/toy_streams.py`), in a process of its own: what the trainer
launches is done only when all calls have returned, and what is read too early is NaN.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.runs import run_script

STEPS = 20
SIZE = 64

SCRIPT = """
import json, os, sys, weakref
import torch
from support import toy_streams as toy
kept = toy.install()
from support.journals import read_rows
from support.runs import make_tracker
from support.trackers import journal_only
from fasttrack import Options
from fasttrack.hotpath import capture

STEPS = 20
SIZE = 64  # numbers in a gradient, of 4 bytes
results = {}


def on_device(tensor):
    return tensor.to("toy")


def run(kind, *, in_place="", default_device=None, **options):
    tracker = make_tracker(options=journal_only(**options), log_interval=1)
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(on_device(torch.zeros(SIZE)))
    base, ones = on_device(torch.ones(())), on_device(torch.ones(SIZE))
    made, held = [], []
    toy.Queue.standing = True
    with torch.device(default_device or "cpu"):
        for step in range(STEPS):
            loss = base * (step + 0.5)
            if in_place and step:
                model.weight.grad.zero_()
                model.weight.grad.add_(ones * (step + 1))
            else:
                model.weight.grad = ones * (step + 1)
            made.append(weakref.ref(model.weight.grad))
            metric = base * step
            tracker.log_training_step(loss, step, model=model)
            tracker.log_metrics({"metric": metric, "plain": step}, step)
            loss.zero_()  # the next step overwrites it
            metric.fill_(-1.0)
            if in_place == "clip":
                model.weight.grad.mul_(0.1)
            elif not in_place:
                model.weight.grad = None
            held.append(sum(gradient() is not None for gradient in made))
    waited = toy.Queue.done
    toy.Queue.run()
    tracker.finish()
    rows = [[row.step, row.values] for row in read_rows(tracker.get_run_dir())]
    stats = tracker.stats()
    results[kind] = {"rows": rows, "refused": stats.refused, "stale": stats.stale,
                     "failed": stats.failed_calls, "held": max(held)}


run("plain")
run("worker", grad_norm="worker")
run("inline", grad_norm="inline")
run("zeroed", in_place="zero")
run("clipped", in_place="clip")
run("zeroed_worker", in_place="zero", grad_norm="worker")
run("limited", grad_hold_limit_gb=3 * SIZE * 4 / 2**30)
run("default_device", default_device="toy")
toy.Event.failures = [None] * 10 + [RuntimeError("the device is busy")] + [None] * 2
run("event", grad_norm="inline")
toy.Stream.failures = [RuntimeError("no stream now")] * 2
run("stream")
toy.Event.failures = [RuntimeError("PrivateUse1 backend doesn't support events.")]
run("eventless")
capture.EVENTLESS.discard("toy")
toy.Stream.failures = [NotImplementedError("no streams")]
run("streamless")
print(json.dumps(results))
sys.stdout.flush()
os._exit(0)  # autograd's thread must not outlive the interpreter
"""


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What came of every scenario."""
    done = run_script(SCRIPT, warnings=None)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def values_of(scenario: dict[str, Any], name: str) -> dict[int, float]:
    """Return what was logged under a name, by step."""
    return {step: values[name] for step, values in scenario["rows"] if name in values}


def true_values(name: str) -> dict[int, Any]:
    """Return what the device computed."""
    steps = range(STEPS)
    if name == "loss/total":
        return {step: step + 0.5 for step in steps}
    if name == "train/grad_norm":
        return {step: pytest.approx(SIZE**0.5 * (step + 1), rel=1e-5) for step in steps}
    return {step: float(step) for step in steps}


NAMES = ("loss/total", "train/grad_norm", "metric")


@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "worker",
        "inline",
        "zeroed",
        "clipped",
        "limited",
        "default_device",
        "eventless",
        "streamless",
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_every_value_is_the_one_of_its_call(seen: dict[str, Any], kind: str, name: str) -> None:
    """The device computes it long after the call, the loop overwrites it, and no call waits.

    With gradients that change in place, under a default device, and where the backend has no
    events or no streams, too.
    """
    assert values_of(seen[kind], name) == true_values(name)
    assert (seen[kind]["refused"], seen[kind]["stale"], seen[kind]["failed"]) == (0, 0, 0)


def test_where_the_worker_is_asked_for_one_norm_is_lost_to_changes_in_place(
    seen: dict[str, Any],
) -> None:
    """It was two, and on a slow device all that were not read yet."""
    norms = values_of(seen["zeroed_worker"], "train/grad_norm")
    expected = true_values("train/grad_norm")
    del expected[0]

    assert norms == expected
    assert seen["zeroed_worker"]["stale"] == 1


def test_gradients_in_flight_stay_below_the_limit(seen: dict[str, Any]) -> None:
    """Three steps' fit here; it was each step alone that had to, and all of them were held."""
    assert seen["limited"]["held"] <= 3 + 1  # and one whose identity is still to be compared
    assert seen["plain"]["held"] >= STEPS - 1


def test_an_event_that_fails_once_costs_its_record_only(seen: dict[str, Any]) -> None:
    """Events were off from then on, for the whole process, and all later values wrong."""
    loss, norm = (values_of(seen["event"], name) for name in NAMES[:2])
    (lost,) = set(range(STEPS)) - loss.keys()
    for name, found in zip(NAMES[:2], (loss, norm), strict=True):
        expected = true_values(name)
        del expected[lost]
        assert found == expected

    assert values_of(seen["event"], "metric") == true_values("metric")
    assert values_of(seen["event"], "plain") == {step: step for step in range(STEPS)}
    assert seen["event"]["refused"] == 2


def test_a_stream_that_fails_costs_what_was_read_then(seen: dict[str, Any]) -> None:
    """The worker then read without any order, for the rest of the process."""
    found = 0
    for name in NAMES:
        values = values_of(seen["stream"], name)
        found += len(values)
        expected = true_values(name)
        assert values == {step: expected[step] for step in values}

    assert seen["stream"]["refused"] == len(NAMES) * STEPS - found
    assert 1 <= seen["stream"]["refused"] <= 2
