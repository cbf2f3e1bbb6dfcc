"""The gradient norm: its value, who computes it, and which models are refused."""

from __future__ import annotations

import gc
import json
import math
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.runs import run_script

from fasttrack.hotpath.capture import Capture
from fasttrack.hotpath.deepspeed import deepspeed_loss_scale
from fasttrack.hotpath.gradients import GradientSource
from fasttrack.hotpath.norms import fused_norm
from fasttrack.hotpath.records import GRAD_NORM, VALUES, Gradients, Record
from fasttrack.notices import Notices
from fasttrack.worker.resolve import Resolver

if TYPE_CHECKING:
    from collections.abc import Sequence

GIB = 2**30


class Heard:
    """Keep what a source warns about, once for each key as the notices does."""

    def __init__(self) -> None:
        """Start with nothing heard."""
        self.texts: dict[str, str] = {}
        self.calls = 0

    def __call__(self, key: str, text: str) -> None:
        """Hear a warning."""
        self.calls += 1
        self.texts.setdefault(key, text)


@pytest.fixture
def heard() -> Heard:
    """What the user would hear."""
    return Heard()


def exact_norm(gradients: Sequence[torch.Tensor]) -> float:
    """Return the norm in double precision."""
    dense = [g.to_dense() if g.is_sparse else g for g in gradients]
    return math.sqrt(sum(float((g.detach().double() ** 2).sum()) for g in dense))


def small_model(**options: Any) -> torch.nn.Module:
    """Return a model that holds gradients."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    model.to(**options)
    model(torch.ones(2, 4, **options)).sum().backward()
    return model


def train(model: torch.nn.Module, *, set_to_none: bool) -> None:
    """Compute new gradients."""
    model.zero_grad(set_to_none=set_to_none)
    model(torch.randn(2, 4)).sum().backward()


def gradients_of(model: torch.nn.Module) -> list[torch.Tensor]:
    """Return the gradients that are there."""
    return [p.grad for p in model.parameters() if p.grad is not None]


def resolve_norm(source: GradientSource, model: Any, notices: Notices) -> Any:
    """Capture and resolve at once; return `train/grad_norm`, or None where it was dropped."""
    return (
        resolver_for(source, notices)
        .resolve([record_of(source.capture(model))])[0][VALUES]
        .get(GRAD_NORM)
    )


def resolver_for(source: GradientSource, notices: Notices) -> Resolver:
    """Return a worker's resolver."""
    return Resolver(Capture("snapshot"), source, notices)


def record_of(captured: Any) -> Any:
    """Return a record that carries what a source captured."""
    if isinstance(captured, Gradients):
        return Record(0, 0.0, {}, {}, None, captured, ())
    assert isinstance(captured, torch.Tensor)
    return Record(0, 0.0, {GRAD_NORM: captured}, {GRAD_NORM: captured}, None, None, ())


def test_fused_norm_equals_what_torch_computes() -> None:
    """One dtype: to the last bit what clip_grad_norm_ would say."""
    gradients = gradients_of(small_model())
    norm = fused_norm(gradients)

    assert norm.shape == ()
    assert torch.equal(norm, torch.nn.utils.get_total_norm(gradients))


@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.float32, torch.float64),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float16, torch.float64),
    ],
)
def test_fused_norm_of_mixed_dtypes_is_exact(dtypes: tuple[torch.dtype, ...]) -> None:
    """Groups of each dtype are joined in the widest one."""
    torch.manual_seed(0)
    gradients = [torch.randn(7, 3).to(dtype) for dtype in dtypes for _ in range(3)]

    assert float(fused_norm(gradients)) == pytest.approx(exact_norm(gradients), rel=1e-5)


def test_doubles_are_summed_in_double_precision() -> None:
    """A value that float32 would round."""
    gradients = [torch.full((5,), 1 + 1e-12, dtype=torch.float64), torch.zeros(3)]

    assert float(fused_norm(gradients)) == pytest.approx(exact_norm(gradients), rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype: torch.dtype) -> None:
    """Squares of 6e4 do not fit float16; the sum is taken in float32."""
    gradients = [torch.full((1000,), 60_000.0).to(dtype), torch.full((1000,), 60_000.0).to(dtype)]

    assert float(fused_norm(gradients)) == pytest.approx(exact_norm(gradients), rel=1e-5)


def test_half_precision_keeps_small_gradients() -> None:
    """Squares of 1e-4 vanish in float16."""
    gradients = [torch.full((100,), 1e-4, dtype=torch.float16)]

    assert float(fused_norm(gradients)) == pytest.approx(exact_norm(gradients), rel=1e-5)


def test_sparse_gradients_count_with_their_sums() -> None:
    """An embedding's gradient names a row twice; both parts belong to one value."""
    embedding = torch.nn.Embedding(10, 3, sparse=True)
    linear = torch.nn.Linear(3, 1)
    linear(embedding(torch.tensor([1, 1, 4]))).sum().backward()
    gradients = [embedding.weight.grad, linear.weight.grad, linear.bias.grad]
    found = [g for g in gradients if g is not None]

    assert found[0].is_sparse
    assert float(fused_norm(found)) == pytest.approx(exact_norm(found), rel=1e-5)


def test_empty_and_complex_gradients_count_too() -> None:
    """A sparse gradient without entries is zero; a complex one counts by its magnitude."""
    nothing = torch.zeros(3, 3).to_sparse()
    complex_gradient = torch.full((2,), 3 + 4j)

    assert float(fused_norm([nothing])) == 0.0
    assert float(fused_norm([nothing, complex_gradient])) == pytest.approx(math.sqrt(50))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_gradients_give_a_non_finite_norm(bad: float) -> None:
    """An exploding run must be seen to explode."""
    norm = float(fused_norm([torch.tensor([1.0, bad]), torch.ones(2)]))

    assert not math.isfinite(norm)


def test_fused_norm_builds_no_graph() -> None:
    """Even from gradients that carry one (create_graph=True)."""
    gradient = torch.ones(3, requires_grad=True) * 2

    assert fused_norm([gradient]).requires_grad is False


def test_auto_computes_a_few_mib_on_the_cpu_inline(heard: Heard) -> None:
    """There the worker costs the step more than the norm does."""
    model = small_model()
    captured = GradientSource("auto", GIB, heard).capture(model)

    assert isinstance(captured, torch.Tensor)
    assert float(captured) == pytest.approx(exact_norm(gradients_of(model)), rel=1e-6)


def test_auto_sends_gradients_up_to_the_limit_to_the_worker(heard: Heard) -> None:
    """At the limit and below, the caller launches nothing, but for the first step.

    Whether a program changes its gradients in place shows at the second: none may be lost to that.
    """
    model = small_model()
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    source = GradientSource("auto", total, heard, cpu_inline_bytes=0)
    expected = exact_norm(gradients_of(model))
    first = source.capture(model)
    train(model, set_to_none=True)
    captured = source.capture(model)

    assert isinstance(first, torch.Tensor)
    assert float(first) == pytest.approx(expected, rel=1e-6)
    assert isinstance(captured, Gradients)
    assert [id(g) for g in captured.tensors] == [id(g) for g in gradients_of(model)]
    assert captured.devices == frozenset()  # the CPU's need no stream
    assert captured.size_bytes == total


def test_auto_computes_large_gradients_inline(heard: Heard) -> None:
    """Above the limit nothing is held past the call."""
    model = small_model()
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    captured = GradientSource("auto", total - 1, heard, cpu_inline_bytes=0).capture(model)

    assert isinstance(captured, torch.Tensor)
    assert float(captured) == pytest.approx(exact_norm(gradients_of(model)), rel=1e-6)


@pytest.mark.parametrize("mode", ["worker", "inline"])
def test_both_modes_give_the_same_number(heard: Heard, mode: str) -> None:
    """From the model to the row, with frozen and unused parameters among the others."""
    model = small_model()
    model.register_parameter("unused", torch.nn.Parameter(torch.ones(3)))
    frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    model.register_parameter("frozen", frozen)
    notices = Notices()
    norm = resolve_norm(GradientSource(mode, GIB, heard), model, notices)

    assert norm == pytest.approx(exact_norm(gradients_of(model)), rel=1e-6)
    assert type(norm) is float
    assert notices.counts() == {}
    assert heard.calls == 0


def test_off_looks_at_nothing(heard: Heard) -> None:
    """Not even at what is no model."""
    assert GradientSource("off", GIB, heard).capture(object()) is None
    assert heard.calls == 0


def test_the_first_stale_norm_is_the_last(heard: Heard) -> None:
    """zero_grad(set_to_none=False) before the worker has read: dropped, then launched inline."""
    model, notices = small_model(), Notices()
    source = GradientSource("worker", GIB, heard)
    resolver = resolver_for(source, notices)
    record = record_of(source.capture(model))
    train(model, set_to_none=False)
    stale = resolver.resolve([record])[0][VALUES]
    expected = exact_norm(gradients_of(model))
    inline = source.capture(model)
    model.zero_grad(set_to_none=False)

    assert stale == {}
    assert notices.counts() == {"stale": 1}
    assert isinstance(inline, torch.Tensor)
    assert float(inline) == pytest.approx(expected, rel=1e-6)
    assert "set_to_none=False" in heard.texts["grad_norm_stale"]


def test_the_caller_sees_a_change_in_place_before_the_worker_has_told(heard: Heard) -> None:
    """On a slow device several steps are unresolved: they were all lost until the worker told."""
    model = small_model()
    source = GradientSource("worker", GIB, heard)
    captured = []
    for _ in range(4):
        captured.append(source.capture(model))
        train(model, set_to_none=False)

    assert [type(each) for each in captured] == [Gradients, *[torch.Tensor] * 3]


def test_the_caller_sees_that_logged_gradients_have_moved(heard: Heard) -> None:
    """`model.to(device)` moves them as they are held, and no version tells; CUDA: test_device."""
    model = small_model()
    source = GradientSource("worker", GIB, heard)
    first = source.capture(model)
    source._models[id(model)].index = 3  # the device on which they were then
    train(model, set_to_none=True)

    assert isinstance(first, Gradients)
    assert isinstance(source.capture(model), torch.Tensor)
    assert "grad_norm_stale" in heard.texts


def clip(model: torch.nn.Module) -> None:
    """Clip the gradients after the log, then go on as usual."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    train(model, set_to_none=True)


def accumulate(model: torch.nn.Module) -> None:
    """Add another micro-batch to the gradients that were logged."""
    model(torch.randn(2, 4)).sum().backward()


def zero_in_place(model: torch.nn.Module) -> None:
    """Keep the memory of the gradients."""
    train(model, set_to_none=False)


@pytest.mark.parametrize("change", [clip, accumulate, zero_in_place])
def test_auto_loses_no_norm_to_changes_in_place(heard: Heard, change: Any) -> None:
    """However far behind the worker is: all norms are those of the moment of the log."""
    model, notices = small_model(), Notices()
    source = GradientSource("auto", GIB, heard, cpu_inline_bytes=0)
    records, expected = [], []
    for _ in range(5):
        expected.append(exact_norm(gradients_of(model)))
        records.append(record_of(source.capture(model)))
        change(model)
    rows = resolver_for(source, notices).resolve(records)

    assert [row[VALUES][GRAD_NORM] for row in rows] == pytest.approx(expected, rel=1e-5)
    assert notices.counts() == {}
    assert list(heard.texts) == ["grad_norm_stale"]


def test_auto_sends_to_the_worker_what_nobody_changes(heard: Heard) -> None:
    """New gradients at each step, the old ones let go: the usual loop."""
    model = small_model()
    source = GradientSource("auto", GIB, heard, cpu_inline_bytes=0)
    captured = []
    for _ in range(4):
        captured.append(source.capture(model))
        train(model, set_to_none=True)

    assert [type(each) for each in captured] == [torch.Tensor, *[Gradients] * 3]
    assert heard.calls == 0


@pytest.mark.parametrize("mode", ["auto", "worker"])
def test_gradients_that_a_cuda_graph_writes_go_inline(heard: Heard, mode: str) -> None:
    """A replay writes them without moving their versions: the worker would read any step's."""
    model, notices = small_model(), Notices()
    source = GradientSource(mode, GIB, heard, cpu_inline_bytes=0)
    resolver = resolver_for(source, notices)
    source.capture(model)
    captured, expected = [], []
    for step in range(3):
        for gradient in gradients_of(model):
            gradient.data.fill_(step + 1.0)  # which no version tells, either
        expected.append(exact_norm(gradients_of(model)))
        captured.append(record_of(source.capture(model)))
    rows = resolver.resolve(captured)

    assert [row[VALUES][GRAD_NORM] for row in rows] == pytest.approx(expected, rel=1e-5)
    assert heard.calls == 0


def test_going_inline_lasts_for_other_models(heard: Heard) -> None:
    """Another model does not bring the stale norms back."""
    source = GradientSource("worker", GIB, heard)
    first, second = small_model(), small_model()
    source.capture(first)
    source.was_stale()

    assert isinstance(source.capture(second), torch.Tensor)


@pytest.mark.parametrize("mode", ["auto", "worker"])
def test_what_unresolved_steps_hold_together_is_limited(heard: Heard, mode: str) -> None:
    """A slow device held 640 MiB of 40 steps, each of which was below a limit of 20 MiB."""
    model, notices = small_model(), Notices()
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    source = GradientSource(mode, int(2.5 * total), heard, cpu_inline_bytes=0)
    source.capture(model)  # in "auto" the first is inline
    resolver = resolver_for(source, notices)
    held: list[Any] = []
    expected = []
    for _ in range(6):
        train(model, set_to_none=True)
        expected.append(exact_norm(gradients_of(model)))
        held.append(source.capture(model))
    while_full = [isinstance(each, Gradients) for each in held]
    rows = resolver.resolve([record_of(each) for each in held])
    train(model, set_to_none=True)
    afterwards = source.capture(model)

    assert while_full.count(True) == (2 if mode == "auto" else 1)  # the first is held there, too
    assert [row[VALUES][GRAD_NORM] for row in rows] == pytest.approx(expected, rel=1e-5)
    if mode == "auto":
        assert isinstance(afterwards, Gradients)
    assert all(not each.tensors for each in held if isinstance(each, Gradients))


def test_gradients_that_never_reach_the_worker_are_not_held(heard: Heard) -> None:
    """A full ring drops the record: what it held must not count for ever."""
    model = small_model()
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    source = GradientSource("worker", total, heard)
    captured = [source.capture(model)]
    for _ in range(5):
        assert isinstance(captured[-1], Gradients)
        source.was_dropped(captured[-1])
        train(model, set_to_none=True)
        captured.append(source.capture(model))

    assert isinstance(captured[-1], Gradients)


def test_one_step_above_the_limit_goes_to_the_worker_where_that_is_asked_for(heard: Heard) -> None:
    """grad_norm="worker" holds one step's gradients whatever they take, but not two."""
    model = small_model()
    source = GradientSource("worker", 1, heard)

    assert isinstance(source.capture(model), Gradients)
    assert isinstance(source.capture(model), torch.Tensor)


def test_a_finished_source_keeps_nothing(heard: Heard) -> None:
    """Neither the model's parts nor a gradient outlive the run."""
    model = small_model()
    source = GradientSource("worker", GIB, heard)
    source.capture(model)
    source.close()
    gradient = weakref.ref(gradients_of(model)[0])
    model.zero_grad()
    gc.collect()

    assert gradient() is None
    assert source.capture(small_model()) is None


def test_gradients_set_to_none_before_the_worker_reads_are_still_right(heard: Heard) -> None:
    """The usual zero_grad() only drops the model's own references."""
    model, notices = small_model(), Notices()
    source = GradientSource("worker", GIB, heard)
    expected = exact_norm(gradients_of(model))
    record = record_of(source.capture(model))
    model.zero_grad()
    row = resolver_for(source, notices).resolve([record])[0]

    assert row[VALUES][GRAD_NORM] == pytest.approx(expected, rel=1e-6)


def test_model_without_gradients_is_told_once_and_may_get_some(heard: Heard) -> None:
    """Logging after zero_grad() is the usual mistake; the warning says so."""
    model = small_model()
    model.zero_grad()
    notices = Notices()
    source = GradientSource("worker", GIB, heard)

    assert [source.capture(model) for _ in range(3)] == [None] * 3
    assert list(heard.texts) == ["grad_norm"]
    assert "zero_grad" in heard.texts["grad_norm"]
    model(torch.ones(2, 4)).sum().backward()
    assert resolve_norm(source, model, notices) == pytest.approx(exact_norm(gradients_of(model)))


class DeepSpeedOptimizer:
    """Looks like the optimizer that `deepspeed.initialize` returns."""

    def __init__(self, norm: Any, loss_scale: Any = 1.0) -> None:
        """Know the last step's norm: 0.0 before the first, None if told not to compute it."""
        self._global_grad_norm = norm
        self.loss_scale = loss_scale


class TorchOptimizer:
    """Looks like torch's own, which take seconds to import."""

    param_groups = ({"lr": 0.1},)


class Engine(torch.nn.Module):
    """Looks like a DeepSpeed engine, between backward() and step()."""

    def __init__(self, norm: Any, optimizer: Any = None) -> None:
        """Answer `norm`."""
        super().__init__()
        self.norm = norm
        self.optimizer = optimizer
        self.module = small_model()

    def get_global_grad_norm(self) -> Any:
        """Return the norm over all ranks, None before the first step."""
        return self.norm


def test_an_engines_own_norm_is_taken(heard: Heard) -> None:
    """DeepSpeed knows the global norm: a float or a tensor."""
    source = GradientSource("worker", GIB, heard)
    tensor = torch.tensor(2.5)

    assert source.capture(Engine(1.5)) == 1.5
    assert source.capture(Engine(tensor)) is tensor
    assert heard.calls == 0


def test_deepspeeds_optimizer_tells_the_norm_of_its_module(heard: Heard) -> None:
    """The module alone knows neither its engine nor, after step(), its gradients."""
    source = GradientSource("worker", GIB, heard)
    module = Engine(None).module
    tensor = torch.tensor(2.5)

    assert source.capture(module, DeepSpeedOptimizer(tensor)) is tensor
    assert source.capture(module, DeepSpeedOptimizer(1.5)) == 1.5
    assert source.capture(module, DeepSpeedOptimizer(math.inf)) == math.inf
    assert heard.calls == 0


def test_before_deepspeeds_first_step_there_is_no_norm(heard: Heard) -> None:
    """The gradients that are there are this rank's, with ZeRO also a part, in fp16 also scaled."""
    source = GradientSource("worker", GIB, heard)
    optimizer = DeepSpeedOptimizer(0.0)
    engine = Engine(None, optimizer)

    assert source.capture(engine) is None
    assert source.capture(engine.module, optimizer) is None
    assert heard.calls == 0


def test_deepspeed_without_a_norm_is_told_what_to_pass(heard: Heard) -> None:
    """ZeRO stage 0 in float32 (a torch optimizer takes the step), and compute_grad_norm=false."""
    source = GradientSource("worker", GIB, heard)
    at_stage_0 = Engine(None, TorchOptimizer())
    untold = DeepSpeedOptimizer(None)

    assert source.capture(at_stage_0) is None
    assert source.capture(Engine(None, untold)) is None
    assert source.capture(Engine(None).module, untold) is None
    assert heard.calls == 3
    assert "before engine.step() and pass grad_norm=" in heard.texts["grad_norm"]
    assert "compute_grad_norm=false" in heard.texts["grad_norm"]


def test_deepspeeds_loss_scale_counts_only_where_it_scales() -> None:
    """It says 1 in bf16 and float32; torch's optimizers have none."""
    assert deepspeed_loss_scale(DeepSpeedOptimizer(1.5, loss_scale=65536)) == 65536
    assert deepspeed_loss_scale(DeepSpeedOptimizer(1.5, loss_scale=0.5)) == 0.5
    assert deepspeed_loss_scale(DeepSpeedOptimizer(1.5)) is None
    assert deepspeed_loss_scale(TorchOptimizer()) is None
    assert deepspeed_loss_scale(None) is None


@pytest.mark.parametrize("model", ["model", [torch.nn.Linear(1, 1)], lambda x: x])
def test_what_is_no_module_is_refused_with_a_warning(heard: Heard, model: Any) -> None:
    """The warning names the type; nothing raises."""
    source = GradientSource("worker", GIB, heard)

    assert source.capture(model) is None
    assert type(model).__name__ in heard.texts["grad_norm"]


def test_a_good_model_after_a_bad_one_is_taken(heard: Heard) -> None:
    """A mistake is not held against the next call."""
    source = GradientSource("worker", GIB, heard)
    source.capture("no model")

    assert isinstance(source.capture(small_model()), Gradients)


def test_a_bad_model_after_a_good_one_is_refused_and_the_good_one_taken_again(
    heard: Heard,
) -> None:
    """The model that was listed last must not answer with the mode of the bad one.

    `_list_parameters` remembered the good model while the mode was "off": its norm never came back.
    """
    model = small_model()
    source = GradientSource("worker", GIB, heard)
    source.capture(model)
    refused = source.capture("no model")
    train(model, set_to_none=True)

    assert refused is None
    assert isinstance(source.capture(model), Gradients)


def test_a_norm_that_cannot_be_computed_is_refused_and_the_row_goes_on(
    heard: Heard, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dtype without a norm kernel costs only the norm."""
    model, notices = small_model(), Notices()
    source = GradientSource("worker", GIB, heard)
    broken = torch.zeros(2).to(torch.float8_e4m3fn)
    gradients = Gradients([broken], [broken._version], frozenset([torch.device("cpu")]))
    record = Record(3, 0.0, {"loss/total": 1.0}, {}, None, gradients, ())
    row = resolver_for(source, notices).resolve([record])[0]

    assert row[VALUES] == {"loss/total": 1.0}
    assert notices.counts() == {"refused": 1}
    assert "norm could not be computed" in capsys.readouterr().err
    del model


@pytest.mark.parametrize("mark", ["ds_id", "_hp_mapping"])
def test_parameters_of_zero_are_refused(heard: Heard, mark: str) -> None:
    """DeepSpeed marks the parameters that it has partitioned: stage 3, stages 1 and 2."""
    model = small_model()
    setattr(next(model.parameters()), mark, None)

    assert GradientSource("worker", GIB, heard).capture(model) is None
    assert "ZeRO" in heard.texts["grad_norm"]
    assert "pass the engine as model" in heard.texts["grad_norm"]


def test_without_gradients_deepspeeds_users_hear_more(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's step() drops them, which a warning about zero_grad() would not explain."""
    model = small_model()
    model.zero_grad()
    monkeypatch.setitem(sys.modules, "deepspeed", sys)

    assert GradientSource("worker", GIB, heard).capture(model) is None
    assert "with DeepSpeed pass the engine as model" in heard.texts["grad_norm"]


def test_a_model_that_is_gone_is_not_kept_alive(heard: Heard) -> None:
    """`del model` after training frees its memory, though the tracker lives on.

    The source held the model by a weak reference, but its parameters by a list.
    """
    model = small_model()
    source = GradientSource("worker", GIB, heard)
    source.capture(model)
    parameter = weakref.ref(next(model.parameters()))
    del model
    gc.collect()

    assert parameter() is None


SHARDED = """
import json, sys, warnings
warnings.simplefilter("ignore")  # torch.distributed's own
import torch
import torch.distributed as dist
from fasttrack.hotpath.gradients import GradientSource

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
results = {}

def look(kind, model):
    heard = []
    captured = GradientSource("worker", 2**30, lambda key, text: heard.append(text)).capture(model)
    results[kind] = {"captured": type(captured).__name__, "heard": heard}

model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
model(torch.ones(2, 4)).sum().backward()
look("ddp", model)

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
mesh = init_device_mesh("cpu", (1,))
model = torch.nn.Linear(4, 4)
model.weight = torch.nn.Parameter(distribute_tensor(model.weight.data, mesh, [Shard(0)]))
model.weight.sum().backward()
look("dtensor", model)

from fasttrack.errors import ValueRefusedError
from fasttrack.hotpath.capture import Capture
for mode in ("snapshot", "reference"):
    try:
        Capture(mode).scalar("m", model.weight.sum().detach())
    except ValueRefusedError as error:
        results[mode] = str(error)

from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
model = torch.nn.Linear(4, 4)
fully_shard(model, mesh=mesh)
model(torch.ones(2, 4)).sum().backward()
look("fsdp2", model)

model = torch.nn.Sequential(
    FullyShardedDataParallel(
        torch.nn.Linear(4, 4), device_id=torch.device("cpu"), use_orig_params=True
    )
)
model(torch.ones(2, 4)).sum().backward()
look("fsdp1", model)

print(json.dumps(results))
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def sharded() -> dict[str, Any]:
    """What came of real one-rank models of every kind, made in a process of their own."""
    done = run_script(SHARDED, warnings=None)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize(
    ("kind", "reason"), [("dtensor", "DTensor"), ("fsdp2", "DTensor"), ("fsdp1", "FSDP")]
)
def test_sharded_models_are_refused(sharded: dict[str, Any], kind: str, reason: str) -> None:
    """A local norm is wrong and a collective could hang the job: say what to pass instead."""
    result = sharded[kind]

    assert result["captured"] == "NoneType"
    assert len(result["heard"]) == 1
    assert reason in result["heard"][0]
    assert "grad_norm=" in result["heard"][0]


@pytest.mark.parametrize("mode", ["snapshot", "reference"])
def test_a_sharded_value_is_refused(sharded: dict[str, Any], mode: str) -> None:
    """Reading a DTensor's value is a collective, which one rank alone must not start."""
    assert "tracker.reduce(tensor) or full_tensor()" in sharded[mode]


def test_a_ddp_model_is_not_refused(sharded: dict[str, Any]) -> None:
    """DDP's gradients are whole on every rank."""
    assert sharded["ddp"] == {"captured": "Gradients", "heard": []}
