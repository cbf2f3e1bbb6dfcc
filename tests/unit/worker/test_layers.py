"""Norms of each layer: right, sampled, never waited for; and the layers that went bad are named."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.journals import read_entries, read_rows
from support.runs import run_script
from support.trackers import journal_only

from fasttrack import ConfigurationError, Options
from fasttrack.alerts.judge import Judge
from fasttrack.alerts.settings import AlertSettings
from fasttrack.delivery.alerting.watch import AlertWatch
from fasttrack.hotpath.gradients import GradientSource
from fasttrack.hotpath.layers import LayerSource
from fasttrack.journal.run_directory import segments
from fasttrack.journal.trouble import BadLayers
from fasttrack.notices import Notices
from fasttrack.runs.flights import read_flights
from fasttrack.worker.device import SideStreams
from fasttrack.worker.layers import LayerNorms

if TYPE_CHECKING:
    from pathlib import Path

    from support.trackers import Trackers

    from fasttrack.alerts.judge import Finding

DEPTH = 5
BAD = 47


def network(depth: int = DEPTH, *, bias: bool = True) -> Any:
    """Return a real model of so many layers."""
    torch.manual_seed(0)
    return torch.nn.Sequential(*[torch.nn.Linear(4, 4, bias=bias) for _ in range(depth)])


def backward(model: torch.nn.Module) -> torch.Tensor:
    """Make gradients; return the loss."""
    loss: torch.Tensor = model(torch.ones(2, 4)).square().mean()
    loss.backward()
    return loss


def norm_of(tensors: list[Any]) -> float:
    """Return the norm over all entries, by hand."""
    return math.sqrt(sum(t.detach().double().square().sum().item() for t in tensors))


def norms_of(model: torch.nn.Module) -> dict[str, float]:
    """Return what is to be logged of a model of which all layers are looked at."""
    layers = [(name, list(layer.parameters())) for name, layer in model.named_children()]
    grads = {f"layers/grad_norm/{name}": norm_of([p.grad for p in own]) for name, own in layers}
    return grads | {f"layers/param_norm/{name}": norm_of(own) for name, own in layers}


class Bench:
    """A source and its reader, by hand."""

    def __init__(
        self, every: int = 10, hold_limit_bytes: int = 2**30, cpu_inline_bytes: int = 0
    ) -> None:
        """Build them: gradients go to the worker, as large ones do."""
        self.notices = Notices()
        gradients = GradientSource("auto", 2**30, self.notices.warn)
        self.source = LayerSource(
            every,
            hold_limit_bytes,
            gradients,
            self.notices.warn,
            cpu_inline_bytes=cpu_inline_bytes,
        )
        self.norms = LayerNorms(self.source, SideStreams(), self.notices)

    def log(self, step: int, model: Any, optimizer: Any = None, scaler: Any = None) -> bool:
        """Log a step."""
        return self.source.logged(step, model, optimizer, scaler)

    def values(self) -> dict[str, float]:
        """Return the metrics of all that was sampled."""
        rows = [row for seen in self.norms.look(math.inf) if isinstance(seen, list) for row in seen]
        return {name: value for _, _, values in rows for name, value in values.items()}


def test_layers_are_sampled_with_the_first_logged_step_of_each_interval(make: Trackers) -> None:
    """A layer's norm is that over its weight and its bias; the rows are those of the step."""
    options = journal_only(layer_norms_every=20)
    tracker = make(options=options, log_interval=7)
    model: Any = torch.compile(network(), backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = {}
    for step in range(50):
        optimizer.zero_grad()
        loss = backward(model)
        if step in (0, 21, 42):
            expected[step] = norms_of(model._orig_mod)
        tracker.log_training_step(loss, step, 2, optimizer, model)
        optimizer.step()
    tracker.finish()
    run_dir = tracker.get_run_dir()
    assert run_dir is not None

    logged: dict[int, dict[str, float]] = {}
    rows = read_rows(run_dir)
    for row in rows:
        found = {n: v for n, v in row.values.items() if n.startswith("layers/")}
        if found:
            logged.setdefault(row.step, {}).update(found)
    assert {step: pytest.approx(norms, rel=1e-5) for step, norms in expected.items()} == logged
    assert [row.step for row in rows] == sorted(row.step for row in rows)
    assert tracker.stats().stale == 0


def test_parameters_of_many_layers_take_turns_and_gradients_do_not() -> None:
    """So that a call costs the same however many there are; some have no gradient."""
    bench, model = Bench(), network(250, bias=False)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    model[7].weight.grad = None
    seen = []
    for step in range(0, 50, 10):
        assert bench.log(step, model)
        values = bench.values()
        assert sum(name.startswith("layers/grad_norm/") for name in values) == 249
        assert values["layers/grad_norm/8"] == pytest.approx(2.0)
        seen.append({name for name in values if name.startswith("layers/param_norm/")})
    assert not bench.log(49, model)

    assert [len(names) for names in seen] == [64, 64, 64, 58, 64]
    assert len(set.union(*seen[:4])) == 250


@pytest.mark.parametrize("cpu_inline_bytes", [0, 2**20])
def test_a_sample_is_one_row_in_the_order_of_the_layers_whichever_have_gradients(
    cpu_inline_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker reads large gradients that are made anew; of small ones the norms are there."""
    bench, model = Bench(cpu_inline_bytes=cpu_inline_bytes), network(150, bias=False)
    model[70] = torch.nn.Linear(1024, 4, bias=False)  # of another shape, and larger than the rest
    for step, without in ((0, None), (10, None), (20, None), (30, 7), (40, 7), (50, 7)):
        for layer in model:
            layer.weight.grad = torch.full_like(layer.weight, step + 1.0)
        if without is not None:
            model[without].weight.grad = None
        bench.log(step, model)
        assert (bench.source.samples[0].gradients.versions is None) is (
            step < 20 or cpu_inline_bytes > 0
        )
        assert bench.source.is_urgent is (bench.source.samples[0].gradients.versions is not None)
        (rows,) = bench.norms.look(math.inf)

        turn = 22 if step in (20, 50) else 64
        assert isinstance(rows, list)
        (row,) = rows
        assert len(row[2]) == 150 + turn - (without is not None)
        grads = [f"layers/grad_norm/{place}" for place in range(150) if place != without]
        assert list(row[2])[: len(grads)] == grads
        found = {name: row[2][name] / (step + 1) for name in grads}
        assert found.pop("layers/grad_norm/70") == 64.0
        assert {*found.values()} == {4.0}

    monkeypatch.setattr("fasttrack.worker.layers._MOST_TOGETHER", 128)
    bench.log(60, model)
    (rows,) = bench.norms.look(math.inf)
    assert isinstance(rows, list)
    assert [len(row[2]) for row in rows] == [128, 149 + 64 - 128]


def test_the_worker_is_to_come_soon_once_many_samples_wait() -> None:
    """Norms alone wait for its next round."""
    bench, model = Bench(every=1, cpu_inline_bytes=2**20), network()
    backward(model)
    urgent = []
    for step in range(20):
        bench.log(step, model)
        urgent.append(bench.source.is_urgent)

    assert urgent == [False] * 15 + [True] * 5


class Wide(torch.nn.Module):
    """A layer of three parameters, so that 64 are no whole number of layers; one is of bytes."""

    def __init__(self) -> None:
        """Have them."""
        super().__init__()
        self.one, self.two = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
        self.three = torch.nn.Parameter(torch.ones(16))
        self.codes = torch.nn.Parameter(torch.ones(8, dtype=torch.uint8), requires_grad=False)


def test_layers_take_their_turns_as_wholes_and_quantized_parameters_have_no_norm() -> None:
    """A turn that ended within a layer logged the norm of a part of it."""
    bench, model = Bench(), torch.nn.Sequential(*[Wide() for _ in range(30)])
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    seen = []
    for step in range(0, 30, 10):
        bench.log(step, model)
        values = bench.values()
        assert [*values.values()] == pytest.approx([math.sqrt(20)] * len(values))
        seen.append(sum(name.startswith("layers/param_norm/") for name in values))

    assert seen == [21, 9, 21]


@pytest.mark.parametrize("interval", [1, 10, 7])
def test_the_layer_that_went_bad_is_named_wherever_it_is_told(
    interval: int, make: Trackers, capsys: pytest.CaptureFixture[str]
) -> None:
    """A weight of one layer becomes NaN at an unlogged step: notice, dump, journal and alert."""
    options = journal_only(layer_norms_every=20, flight_recorder=20)
    tracker = make(options=options, log_interval=interval)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(80):
        optimizer.zero_grad()
        if step == BAD:
            with torch.no_grad():
                model[2].weight[1, 1] = math.nan
        tracker.log_training_step(backward(model), step, 2, optimizer, model)
        optimizer.step()
    tracker.finish()
    run_dir = tracker.get_run_dir()
    assert run_dir is not None

    why = "the first layer with bad parameters is 2 (1 of 5); the gradients of all 5 layers are bad"
    text = f"the loss became nan at step {BAD}; {why}"
    assert capsys.readouterr().err.count(text) == 1
    assert [dump.error for dump in read_flights(run_dir)] == [text]
    assert [(entry.step, entry.text) for entry in read_entries(run_dir, BadLayers)] == [(BAD, why)]
    alerts = alerts_of(run_dir)
    assert [alert.text for alert in alerts if "layer" in alert.text] == [f"at step {BAD} {why}"]
    assert {alert.step for alert in alerts} == {BAD}


def alerts_of(run_dir: Path) -> list[Finding]:
    """Return what the delivery process finds worth an alert."""
    found: list[Finding] = []
    watch = AlertWatch(
        segments(run_dir),
        Judge(AlertSettings(spike=False)),
        trainer_alive=lambda: False,
        found=lambda finding, attempt: found.append(finding),
    )
    watch.run_once(0.0)
    watch.close()
    return found


def test_a_layer_whose_gradient_is_bad_is_named_by_a_sample_though_the_loss_is_fine(
    make: Trackers, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its norm is logged as it is, and that is said once."""
    tracker = make(options=journal_only(layer_norms_every=10), log_interval=10)
    model = network()
    for step in range(41):
        loss = backward(model)
        if step >= 20:
            for layer in model[1:4]:
                layer.bias.grad.fill_(math.inf)
        tracker.log_training_step(loss, step, 2, None, model)
        model.zero_grad()
    tracker.finish()

    said = capsys.readouterr().err
    where = "the first layer with bad gradients is 1, the last 3 (3 of 5)"
    assert said.count("bad gradients") == 1
    assert f"at step 20 {where}\n" in said


def test_norms_that_cannot_be_computed_cost_no_row(
    make: Trackers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is wrong with them: the rows of the same round are written."""

    def fail(*_: object) -> None:
        raise MemoryError("no room for norms")

    monkeypatch.setattr(LayerNorms, "_read", fail)
    tracker = make(options=journal_only(layer_norms_every=10), log_interval=1)
    model = network()
    for step in range(25):
        tracker.log_training_step(backward(model), step, 2, model=model)
    tracker.finish()
    run_dir = tracker.get_run_dir()
    assert run_dir is not None

    assert [row.step for row in read_rows(run_dir)] == list(range(25))
    assert tracker.stats().worker_errors > 0
    assert "norms of layers could not be computed: MemoryError" in capsys.readouterr().err


def test_what_is_logged_while_norms_are_read_stays_in_order(
    make: Trackers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples that come meanwhile have to wait: rows before theirs are still in the ring."""
    tracker = make(options=journal_only(layer_norms_every=10), log_interval=1)
    model, read = network(), LayerNorms._read

    def log_meanwhile(norms: LayerNorms, sample: Any) -> Any:
        if sample.step == 0:
            for step in range(1, 25):
                tracker.log_training_step(backward(model), step, 2, model=model)
        return read(norms, sample)

    monkeypatch.setattr(LayerNorms, "_read", log_meanwhile)
    engine: Any = tracker._engine
    engine.logger._layers.logged(0, model, None, None)  # a call that has not come to its record
    engine._worker.wake()
    assert tracker.flush(60.0)
    tracker.finish()
    run_dir = tracker.get_run_dir()
    assert run_dir is not None

    steps = [row.step for row in read_rows(run_dir)]
    assert (steps, {*steps}) == (sorted(steps), {*range(25)})


def test_gradients_that_change_behind_the_call_are_dropped_once_then_launched_in_it() -> None:
    """As for the norm of all; parameters may change at once."""
    bench, model = Bench(), network()
    for step in (0, 10, 20, 30):
        model.zero_grad()
        backward(model)
        expected = norms_of(model)
        bench.log(step, model)
        for parameter in model.parameters():
            parameter.grad.zero_()
            parameter.detach().zero_() if step == 30 else None
        values = bench.values()
        if step == 20:  # those of the first two are launched anyway: nobody knows yet
            assert bench.notices.counts() == {"stale": 1}
            expected = {n: v for n, v in expected.items() if "param" in n}
        assert values == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("when", ["before the call", "behind it"])
def test_a_model_that_changes_loses_one_sample_and_has_another_at_the_next_step(when: str) -> None:
    """The worker compares it, for the call takes less time then; until it once has changed."""
    bench, model = Bench(cpu_inline_bytes=2**20), network()

    def logged(step: int, change: Any = None) -> dict[str, float]:
        if change is not None and when == "before the call":
            change()
        backward(model)
        assert bench.log(step, model)
        if change is not None and when == "behind it":
            change()
        return bench.values()

    def replace(place: int) -> None:
        model[place] = torch.nn.Linear(4, 4)

    assert len(logged(0)) == 2 * DEPTH
    assert logged(10, lambda: replace(1)) == {}
    assert bench.notices.counts() == {"stale": 1}
    assert logged(11) == pytest.approx(norms_of(model), rel=1e-5)
    assert not bench.log(12, model)
    model.append(torch.nn.Linear(4, 4))
    assert logged(20) == pytest.approx(norms_of(model), rel=1e-5)
    assert bench.notices.counts() == {"stale": 1}


def test_a_model_that_is_gone_before_its_last_sample_is_read_has_it_all_the_same() -> None:
    """As where a function ends that has made it."""
    bench, model = Bench(cpu_inline_bytes=2**20), network()
    backward(model)
    expected = norms_of(model)
    bench.log(0, model)
    del model

    assert bench.values() == pytest.approx(expected, rel=1e-5)


def test_gradients_that_are_never_made_anew_are_launched_in_the_call() -> None:
    """As a CUDA graph's, which no version tells of, behind steps that made new ones before it."""
    bench, model = Bench(), network()
    for step in range(0, 80, 10):
        if step in (0, 10, 40):  # a step, one graph, a second one
            model.zero_grad()
        backward(model)
        expected = norms_of(model)
        bench.log(step, model)
        for parameter in model.parameters():
            parameter.grad.data.zero_()  # as a graph writes
        assert bench.values() == pytest.approx(expected, rel=1e-5)

    assert bench.notices.counts() == {}


def test_under_a_scaler_norms_are_those_of_unscaled_gradients() -> None:
    """Before and after `unscale_`; and more than the worker may hold goes in the call."""
    bench, model = Bench(hold_limit_bytes=1), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler: Any = torch.amp.GradScaler("cpu", init_scale=1024.0)
    backward(model)
    expected = norms_of(model)
    model.zero_grad()
    scaler.scale(model(torch.ones(2, 4)).square().mean()).backward()
    bench.log(0, model, optimizer, scaler)
    before = bench.values()
    scaler.unscale_(optimizer)
    bench.log(10, model, optimizer, scaler)

    assert before == pytest.approx(expected, rel=1e-5)
    assert bench.values() == pytest.approx(expected, rel=1e-5)


class Engine(torch.nn.Linear):
    """Looks like DeepSpeed's."""

    def get_global_grad_norm(self) -> None:
        """Know none."""


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Engine(2, 2), "DeepSpeed keeps the gradients to itself"),
        (torch.nn.ReLU(), "the model has no parameters that can be normed"),
        ("a model", "model must be a torch.nn.Module, not str"),
    ],
)
def test_what_has_no_layers_of_its_own_is_refused_once(
    model: Any, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what to do."""
    bench = Bench()
    for step in range(0, 30, 10):
        assert not bench.log(step, model)

    assert capsys.readouterr().err.count(f"layers/ norms are not computed: {why}") == 1


_SHARDED = """
import torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from support.runs import make_tracker
from support.trackers import journal_only
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
mesh = dist.init_device_mesh("cpu", (1,))
model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
fully_shard(model, mesh=mesh)
options = journal_only(layer_norms_every=10, grad_norm="off")
with make_tracker(options=options) as tracker:
    for step in range(20):
        loss = model(torch.ones(2, 4)).square().mean()
        loss.backward()
        tracker.log_training_step(loss, step, model=model)
print(tracker.stats().rows_written, tracker.stats().failed_calls)
dist.destroy_process_group()
"""


def test_sharded_parameters_are_refused_with_advice() -> None:
    """A part of a norm is never logged as the norm."""
    result = run_script(_SHARDED, warnings="default")

    assert result.stdout == "20 0\n"
    why = "a parameter is a sharded DTensor; leave Options.layer_norms_every out"
    assert result.stderr.count(f"layers/ norms are not computed: {why}") == 1


_ON_DEVICE = """
import json, torch
from support import toy_streams as toy
kept = toy.install()
from support.journals import read_rows
from support.runs import make_tracker
from support.trackers import journal_only

options = journal_only(layer_norms_every=10, grad_norm="off")
tracker = make_tracker(options=options, log_interval=10)
model = torch.nn.Module()
for name in "abc":
    layer = torch.nn.Module()
    layer.weight = torch.nn.Parameter(torch.ones(4).to("toy"))
    model.add_module(name, layer)
ones = torch.ones(4).to("toy")
toy.Queue.standing = True  # from here on, whoever waits on this thread gets an exception
for step in range(25):
    for place, parameter in enumerate(model.parameters()):
        parameter.grad = ones * (step + place + 1)
    tracker.log_training_step(0.5, step, model=model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
            parameter.grad = None
toy.Queue.run()
tracker.finish()
told = {}
for row in read_rows(tracker.get_run_dir()):
    found = {n: v for n, v in row.values.items() if n.startswith("layers/")}
    told.setdefault(row.step, {}).update(found)
stats = tracker.stats()
print(json.dumps([told, stats.stale, stats.refused, stats.worker_errors]))
"""


def test_on_a_device_nobody_waits_and_what_trains_on_changes_nothing() -> None:
    """Gradients are read as they were, parameters normed before the next step changes them."""
    told, *lost = json.loads(run_script(_ON_DEVICE, warnings="default").stdout)

    assert lost == [0, 0, 0]
    for step in (0, 10, 20):
        grads = {f"layers/grad_norm/{n}": 2.0 * (step + i + 1) for i, n in enumerate("abc")}
        params = {f"layers/param_norm/{n}": 2.0 * 2.0**step for n in "abc"}
        assert told[str(step)] == pytest.approx(grads | params, rel=1e-5)


@pytest.mark.parametrize("given", [0, -1, 2.5, True, "often"])
def test_what_is_wrong_is_said_by_its_option(given: Any) -> None:
    """Before anything runs."""
    with pytest.raises(ConfigurationError, match=r"Options\.layer_norms_every must be an integer"):
        Options(layer_norms_every=given)
