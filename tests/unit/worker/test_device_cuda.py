"""On a real GPU: no call waits (PyTorch itself says so), and every number is exact."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.cuda import BUSY_CYCLES, waiting_forbidden
from torch import nn

from fasttrack.hotpath.capture import Capture, order
from fasttrack.hotpath.gradients import GradientSource
from fasttrack.hotpath.norms import fused_norm
from fasttrack.hotpath.records import GRAD_NORM, VALUES, Gradients, Record
from fasttrack.notices import Notices
from fasttrack.worker.device import SideStreams
from fasttrack.worker.resolve import Resolver

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GIB = 2**30
STEPS = 8


class Bench:
    """The caller's side and the worker's, by hand."""

    def __init__(self, mode: str, limit_bytes: int = GIB) -> None:
        """Compute norms by `mode`."""
        self.notices = Notices()
        self.source = GradientSource(mode, limit_bytes, self.notices.warn)
        self.capture = Capture("snapshot")
        self.resolver = Resolver(self.capture, self.source, self.notices)
        self.records: list[Any] = []

    def log(self, step: int, model: nn.Module, loss: torch.Tensor, *with_scaler: Any) -> None:
        """Do what `log_training_step` does, where waiting raises."""
        with waiting_forbidden():
            values: dict[str, Any] = {"loss": loss}
            captured = self.source.capture(model, *with_scaler)
            gradients = captured if isinstance(captured, Gradients) else None
            if gradients is None and captured is not None:
                values[GRAD_NORM] = captured
            pending = self.capture.mapping(values, self.notices.refuse)
            _, events = order(values, pending, gradients, self.notices.refuse)
        self.records.append(Record(step, 0.0, values, pending, None, gradients, events))

    def read(self) -> list[dict[str, Any]]:
        """Return what the worker makes of all that was logged."""
        return [row[VALUES] for row in self.resolver.resolve(self.records)]


def norm_of(model: nn.Module) -> torch.Tensor:
    """Return the true norm, on the device."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return fused_norm([g.detach().clone() for g in grads])


def none_it(model: nn.Module) -> None:
    model.zero_grad(set_to_none=True)


def zero_it(model: nn.Module) -> None:
    model.zero_grad(set_to_none=False)


def scale_it(model: nn.Module) -> None:
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.mul_(0.1)
    none_it(model)


@pytest.mark.parametrize("after", [none_it, zero_it, scale_it])
@pytest.mark.parametrize("mode", ["auto", "inline"])
def test_norms_and_losses_are_exact_behind_a_busy_device(
    mode: str, after: Callable[[nn.Module], None]
) -> None:
    """All steps are logged before the device has computed the first."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 8)).cuda()
    inputs = torch.randn(STEPS, 16, 64, device="cuda")
    bench, truths = Bench(mode), []
    torch.cuda._sleep(BUSY_CYCLES)
    for step in range(STEPS):
        loss = model(inputs[step]).pow(2).mean()
        loss.backward()
        truths.append((loss.detach().clone(), norm_of(model)))
        bench.log(step, model, loss.detach())
        after(model)
    rows = bench.read()

    assert [row["loss"] for row in rows] == [loss.item() for loss, _ in truths]
    assert [row[GRAD_NORM] for row in rows] == pytest.approx(
        [n.item() for _, n in truths], rel=1e-5
    )
    assert bench.notices.counts() == {}


@pytest.mark.parametrize("place", ["before", "after"])
def test_under_a_scaler_nothing_waits(place: str) -> None:
    """The scale is on the device, and is divided by there."""
    model = nn.Linear(64, 8).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**12)
    bench, truths = Bench("auto"), []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model(torch.randn(16, 64, device="cuda")).pow(2).mean()
        scaler.scale(loss).backward()
        assert scaler._scale is not None
        truths.append(norm_of(model) / scaler._scale)
        if place == "before":
            bench.log(step, model, loss.detach(), optimizer, scaler)
        scaler.step(optimizer)
        scaler.update()
        if place == "after":
            bench.log(step, model, loss.detach(), optimizer, scaler)
    rows = bench.read()

    assert [row[GRAD_NORM] for row in rows] == pytest.approx([n.item() for n in truths], rel=1e-4)
    assert bench.notices.counts() == {}


@pytest.mark.parametrize("mode", ["worker", "inline"])
def test_sparse_gradients_are_summed_by_the_worker(mode: str) -> None:
    """`coalesce()` waits for the device: the caller must not call it."""
    embedding, linear = nn.Embedding(50, 8, sparse=True).cuda(), nn.Linear(8, 1).cuda()
    model = nn.Sequential(embedding, linear)
    index = torch.tensor([1, 1, 4, 4, 4], device="cuda")
    bench = Bench(mode)
    for step in range(3):
        model.zero_grad()
        loss = model(index).pow(2).sum()
        loss.backward()
        bench.log(step, model, loss.detach())
    rows = bench.read()
    dense = [p.grad.to_dense() for p in model.parameters() if p.grad is not None]
    true = fused_norm(dense).item()

    assert [row[GRAD_NORM] for row in rows] == pytest.approx([true] * 3, rel=1e-5)


def test_a_model_on_the_host_and_the_device_is_put_together_by_the_worker() -> None:
    """A copy between them may wait."""
    first, second = nn.Linear(4, 4), nn.Linear(4, 4).cuda()
    model = nn.ModuleList([first, second])
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    parts = [p.grad.cpu() for p in model.parameters() if p.grad is not None]
    true = fused_norm(parts).item()
    for mode in ("worker", "inline"):
        bench = Bench(mode)
        bench.log(0, model, torch.ones((), device="cuda"))
        assert bench.read()[0][GRAD_NORM] == pytest.approx(true, rel=1e-5)


@pytest.mark.parametrize("mode", ["auto", "inline", "worker"])
def test_a_model_that_moves_is_followed(mode: str) -> None:
    """`model.cuda()` keeps the parameters and changes where they, and held gradients, live."""
    model = nn.Linear(64, 64)
    bench, truths = Bench(mode), []
    for step, device in enumerate(("cpu", "cuda", "cpu", "cuda")):
        model.to(device)
        none_it(model)
        torch.cuda._sleep(BUSY_CYCLES)
        model(torch.randn(4, 64, device=device)).pow(2).sum().backward()
        truths.append(norm_of(model))
        bench.log(step, model, torch.ones((), device=device))
    rows = bench.read()

    norms = [row.get(GRAD_NORM) for row in rows]
    stale = bench.notices.counts().get("stale", 0)
    assert norms.count(None) == stale <= (1 if mode == "worker" else 0)
    true = [norm.item() for norm, logged in zip(truths, norms, strict=True) if logged is not None]
    assert [norm for norm in norms if norm is not None] == pytest.approx(true, rel=1e-5)


def test_the_users_default_device_and_type_change_nothing() -> None:
    """Memory of the host was asked for without saying so, and came from the device."""
    tensors = [torch.tensor(float(n), device="cuda") for n in range(5)]
    with torch.device("cuda"):
        on_default_device = SideStreams().read(tensors, ())
    tensor_types: Any = torch.cuda
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and used
        torch.set_default_tensor_type(tensor_types.FloatTensor)
    try:
        of_default_type = SideStreams().read(tensors, ())
    finally:
        torch.set_default_tensor_type(torch.FloatTensor)

    assert on_default_device == of_default_type == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_nothing_is_launched_into_a_graph_that_is_being_captured() -> None:
    """The norm is refused there, and the capture goes on."""
    model = nn.Linear(4, 4).cuda()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    source = GradientSource("inline", GIB, lambda _, text: None)
    x = torch.ones(4, device="cuda")
    source.capture(model)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = x * 2
        with pytest.raises(Exception, match="being captured"):
            source.capture(model)
    graph.replay()

    assert y.tolist() == [2.0] * 4


def test_what_is_in_flight_stays_below_the_limit_of_real_memory() -> None:
    """40 steps of 16 MiB with a limit of 40 MiB: no more is held than that and one step."""
    model = nn.Linear(2048, 2048, bias=False).cuda()
    bench = Bench("auto", limit_bytes=40 * 2**20)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda._sleep(BUSY_CYCLES)
    for step in range(40):
        model.weight.grad = torch.full_like(model.weight, step + 1.0)
        bench.log(step, model, torch.ones((), device="cuda"))
        model.weight.grad = None
    held = torch.cuda.memory_allocated() - before
    rows = bench.read()

    assert held <= 48 * 2**20 + 2**20
    assert [row[GRAD_NORM] for row in rows] == pytest.approx(
        [2048.0 * (step + 1) for step in range(40)], rel=1e-4
    )


@pytest.mark.parametrize("mode", ["auto", "worker"])
def test_gradients_of_a_replayed_graph_are_those_of_the_call(mode: str) -> None:
    """The next replay overwrites them, and no version tells."""
    model = nn.Linear(64, 8).cuda()
    inputs = torch.zeros(16, 64, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            none_it(model)
            model(inputs).pow(2).mean().backward()
    torch.cuda.current_stream().wait_stream(side)
    none_it(model)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = model(inputs).pow(2).mean()
        loss.backward()
    bench, truths = Bench(mode), []
    if mode == "worker":  # the first is the worker's: it is read before the next replay
        graph.replay()
        bench.log(-1, model, loss.detach())
        bench.read()
        bench.records.clear()
    torch.cuda._sleep(BUSY_CYCLES)
    for step in range(STEPS):
        inputs.fill_(step + 1.0)
        graph.replay()
        truths.append((loss.detach().clone(), norm_of(model)))
        bench.log(step, model, loss.detach())
    rows = bench.read()

    assert [row["loss"] for row in rows] == [value.item() for value, _ in truths]
    assert [row[GRAD_NORM] for row in rows] == pytest.approx(
        [n.item() for _, n in truths], rel=1e-5
    )
    assert bench.notices.counts() == {}
