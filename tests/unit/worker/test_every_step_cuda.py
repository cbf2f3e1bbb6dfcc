"""What looks at every step, on a real GPU: no call waits, and what is found is true."""

from __future__ import annotations

import importlib
import json
import math
import shutil
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.cuda import BUSY_CYCLES, waiting_forbidden
from support.journals import read_rows
from support.trackers import journal_only
from torch import nn

from fasttrack.hotpath.capture import Capture
from fasttrack.hotpath.gradients import GradientSource
from fasttrack.hotpath.layers import LayerSource
from fasttrack.hotpath.records import FIRST_NONFINITE_STEP, GRAD_NORM, LOSS
from fasttrack.hotpath.trail import StepTrail
from fasttrack.notices import Notices
from fasttrack.runs.flights import read_flights
from fasttrack.worker.device import SideStreams
from fasttrack.worker.layers import LayerNorms, SeenBad
from fasttrack.worker.resolve import Resolver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.trackers import Trackers

    from fasttrack import ExperimentTracker

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GIB = 2**30
BAD = 47
STEPS = 100


def directory(tracker: ExperimentTracker) -> Path:
    """Return where the tracker's run lies."""
    run_dir = tracker.get_run_dir()
    assert run_dir is not None
    return run_dir


def loss_at(step: int) -> float:
    """Return the loss of a step."""
    return math.nan if step in (BAD, BAD + 1) else float(step)


# --- losses of steps that are not logged ----------------------------------------------------------


def overwrite(tracker: ExperimentTracker) -> None:
    """Log one tensor, whose memory the next step writes to."""
    loss = torch.zeros((), device="cuda")
    for step in range(STEPS):
        loss.fill_(loss_at(step))
        tracker.log_training_step(loss, step, 4)


def free(tracker: ExperimentTracker) -> None:
    """Log tensors whose memory is another's right after the call."""
    for step in range(STEPS):
        loss = torch.full((), loss_at(step), device="cuda")
        tracker.log_training_step(loss, step, 4)
        del loss
        torch.full((), -1.0, device="cuda")


def elsewhere(tracker: ExperimentTracker) -> None:
    """Log from another stream than the default one."""
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(BUSY_CYCLES)
        overwrite(tracker)
        tracker.finish()


@pytest.mark.parametrize("train", [overwrite, free, elsewhere])
def test_the_first_bad_step_and_what_led_to_it_are_exact_behind_a_busy_device(
    train: Callable[[ExperimentTracker], None], make: Trackers
) -> None:
    """Whatever becomes of the loss behind the call."""
    tracker = make(options=journal_only(flight_recorder=STEPS), log_interval=10)
    torch.cuda.synchronize()
    torch.cuda._sleep(BUSY_CYCLES)
    train(tracker)
    tracker.finish()

    rows = {row.step: row.values for row in read_rows(directory(tracker), LOSS)}
    assert sorted(rows) == sorted({*range(0, STEPS, 10), BAD})
    assert [s for s, values in rows.items() if FIRST_NONFINITE_STEP in values] == [BAD]
    assert all(values[LOSS] == s for s, values in rows.items() if s != BAD)
    (dump,) = read_flights(directory(tracker))
    assert (dump.reason, dump.step) == ("non_finite", BAD)
    _, *steps = map(json.loads, dump.path.read_text().splitlines())
    told = {line["step"]: line["values"].get(LOSS) for line in steps}
    assert {s: told[s] for s in range(BAD)} == {s: loss_at(s) for s in range(BAD)}
    assert told[BAD] == "NaN"
    stats = tracker.stats()
    assert (stats.refused, stats.failed_calls, stats.worker_errors) == (0, 0, 0)


def keep_and_read(trail: StepTrail) -> list[dict[str, Any]]:
    """Keep a few steps where waiting raises, behind a busy device; return what is read of them."""
    notices = Notices()
    source = GradientSource("off", GIB, notices.warn)
    resolver = Resolver(Capture("snapshot"), source, notices)
    loss, norm = torch.zeros((), device="cuda"), torch.ones(1, device="cuda").half()
    torch.cuda.synchronize()
    torch.cuda._sleep(BUSY_CYCLES)
    with waiting_forbidden():
        for step in range(STEPS):
            loss.fill_(step)
            trail.note(step, 4, {LOSS: loss, GRAD_NORM: norm, "on the host": 0.5})
        trail.mark()
    steps, events, lost = trail.take(math.inf)
    with torch.cuda.stream(torch.cuda.current_stream()):  # reading changes it
        resolver.read_values([(each.values, each.pending) for each in steps], events)
    assert lost == 0
    return [each.values for each in steps]


def test_keeping_a_step_waits_for_nothing() -> None:
    """By torch's own debug mode; and each step is read as it was."""
    assert keep_and_read(StepTrail(STEPS)) == [
        {LOSS: float(step), GRAD_NORM: 1.0, "on the host": 0.5} for step in range(STEPS)
    ]


@pytest.mark.parametrize(
    "options", [{"watch_nonfinite": True}, {"flight_recorder": 50}, {"layer_norms_every": 10}]
)
def test_a_loop_that_looks_at_every_step_does_not_wait(
    options: dict[str, Any], make: Trackers
) -> None:
    """A whole tracker whose worker reads meanwhile: its audit finds no line that waits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an audit loads it
        importlib.import_module("torch._dynamo")
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = torch.rand(4, 8, device="cuda")
    tracker = make(options=journal_only(**options), log_interval=5)

    def train(steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            loss = model(batch).square().mean()
            loss.backward()
            optimizer.step()
            tracker.log_training_step(loss, step, 4, optimizer, model)

    train(range(20))
    with tracker.audit() as audited:
        train(range(20, 100))

    assert audited.findings == ()


def flight_of(tracker: ExperimentTracker) -> dict[int, float]:
    """Return the losses in the one dump that there is, by their step."""
    (dump,) = read_flights(directory(tracker))
    _, *steps = map(json.loads, dump.path.read_text().splitlines())
    return {line["step"]: line["values"][LOSS] for line in steps}


def test_the_last_steps_are_read_behind_the_streams_that_compute_them(make: Trackers) -> None:
    """Though the run ends on another one, which has waited for neither of them."""
    tracker = make(options=journal_only(flight_recorder=STEPS), log_interval=10 * STEPS)
    sides = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    for step in range(1, 60):
        with torch.cuda.stream(sides[step % 2]):
            if step <= len(sides):
                torch.cuda._sleep(BUSY_CYCLES)
            loss = torch.full((), float(step), device="cuda")
            tracker.log_training_step(loss, step, 4)
    tracker.finish(1)  # which writes them to a file

    assert flight_of(tracker) == {step: float(step) for step in range(1, 60)}


# --- norms of layers ------------------------------------------------------------------------------


def norms_of(model: nn.Sequential) -> dict[str, torch.Tensor]:
    """Return what is to be logged of a model as it is now, on the device."""
    norm = nn.utils.get_total_norm
    found = {}
    for name, layer in model.named_children():
        own = list(layer.parameters())
        found[f"layers/grad_norm/{name}"] = norm([p.grad for p in own if p.grad is not None])
        found[f"layers/param_norm/{name}"] = norm([p.detach() for p in own])
    return {name: value.clone() for name, value in found.items()}


@pytest.mark.parametrize("scaled", [False, True])
def test_norms_of_layers_are_sampled_without_a_wait_and_as_they_were(scaled: bool) -> None:
    """Gradients are read by the worker, or launched in the call; parameters change at once."""
    notices = Notices()
    source = LayerSource(10, GIB, GradientSource("auto", GIB, notices.warn), notices.warn)
    norms = LayerNorms(source, SideStreams(), notices)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 8)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10) if scaled else None
    batch = torch.randn(16, 64, device="cuda")
    for step in range(0, 40, 10):
        model.zero_grad()
        model(batch).pow(2).mean().backward()
        truth = norms_of(model)
        if scaler is not None:
            model.zero_grad()
            scaler.scale(model(batch).pow(2).mean()).backward()
        torch.cuda._sleep(BUSY_CYCLES)
        with waiting_forbidden():
            assert source.logged(step, model, optimizer, scaler)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.5)
        with torch.cuda.stream(torch.cuda.current_stream()):  # reading changes it
            seen = norms.look(math.inf)
        bad = [each for each in seen if isinstance(each, SeenBad)]
        rows = [row for each in seen if isinstance(each, list) for row in each]
        told = {name: value for _, _, values in rows for name, value in values.items()}
        expected = {name: value.item() for name, value in truth.items()}
        assert told == pytest.approx(expected, rel=1e-4)
        assert bad == []

    assert notices.counts() == {}


# --- CUDA graphs ----------------------------------------------------------------------------------


def passes(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Do a forward and a backward pass; return the loss."""
    loss: torch.Tensor = model(inputs).pow(2).mean()
    loss.backward()
    return loss.detach()


def warm_up(model: nn.Module, inputs: torch.Tensor) -> None:
    """Do what must come before a capture, on a stream beside."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            model.zero_grad()
            passes(model, inputs)
    torch.cuda.current_stream().wait_stream(side)
    model.zero_grad()


def test_a_graph_is_captured_while_the_worker_reads_and_its_replays_are_told_apart(
    make: Trackers,
) -> None:
    """Its loss and gradients are the same tensors at each replay, and no version tells."""
    options = journal_only(
        flight_recorder=STEPS, layer_norms_every=10, grad_norm="inline", flush_interval_s=0.001
    )
    tracker = make(options=options, log_interval=10)
    model, inputs = nn.Linear(64, 8).cuda(), torch.zeros(16, 64, device="cuda")
    warm_up(model, inputs)
    torch.cuda._sleep(BUSY_CYCLES)
    for step in range(STEPS):  # the worker can read them once the capture, too, may begin
        tracker.log_training_step(torch.ones((), device="cuda"), step, 4)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = passes(model, inputs)
    losses, norms = {}, {}
    for step in range(STEPS, 2 * STEPS):
        inputs.fill_(step - STEPS + 1.0)
        graph.replay()
        losses[step] = loss.clone()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norms[step] = nn.utils.get_total_norm(gradients).clone()
        tracker.log_training_step(loss, step, 4, model=model)
    tracker.finish(1)  # which writes the last steps to a file

    rows = {row.step: row.values for row in read_rows(directory(tracker), LOSS)}
    assert sorted(rows) == list(range(0, 2 * STEPS, 10))
    for step, values in rows.items():
        assert values[LOSS] == (1.0 if step < STEPS else losses[step].item())
        if step >= STEPS:
            assert values[GRAD_NORM] == pytest.approx(norms[step].item(), rel=1e-4)
    layers = read_rows(directory(tracker), "layers/grad_norm/model")
    assert layers[0].step == STEPS  # of later ones some are left out where the worker is late
    for row in layers:
        norm = row.values["layers/grad_norm/model"]
        assert norm == pytest.approx(norms[row.step].item(), rel=1e-4)
    assert flight_of(tracker) == {step: value.item() for step, value in losses.items()}
    stats = tracker.stats()
    assert (stats.refused, stats.failed_calls, stats.worker_errors) == (0, 0, 0)


def test_nothing_is_launched_into_a_graph_by_what_looks_at_every_step() -> None:
    """The capture goes on, and what was kept before it is read after it."""
    model, x = nn.Linear(4, 4).cuda(), torch.ones(4, device="cuda")
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    notices, trail = Notices(), StepTrail(STEPS)
    source = LayerSource(10, GIB, GradientSource("auto", GIB, notices.warn), notices.warn)
    trail.note(0, 4, {LOSS: torch.ones((), device="cuda")})
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = x * 2
        assert not source.logged(0, model, None, None)
        trail.note(1, 4, {LOSS: y[0]})
        trail.mark()
    graph.replay()
    trail.mark()
    steps, _, _ = trail.take(math.inf)

    assert y.tolist() == [2.0] * 4
    assert [(each.step, LOSS in each.values) for each in steps] == [(0, True), (1, False)]


def test_a_loss_that_the_next_compiled_step_overwrites_is_told_as_it_was(
    make: Trackers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`torch.compile(mode="reduce-overhead")`, whose results lie in a graph's memory."""
    pytest.importorskip("triton")
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("triton needs a C compiler")
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    tracker = make(options=journal_only(flight_recorder=STEPS), log_interval=10)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).cuda()
    batch = torch.randn(16, 64, device="cuda")
    losses = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's
        compiled = torch.compile(model, mode="reduce-overhead")
        for step in range(40):
            loss = compiled(batch * step).pow(2).mean()
            losses[step] = loss.detach().clone()
            tracker.log_training_step(loss, step, 16)
            loss.backward()
            model.zero_grad()
    tracker.finish(1)

    assert flight_of(tracker) == {step: value.item() for step, value in losses.items()}
