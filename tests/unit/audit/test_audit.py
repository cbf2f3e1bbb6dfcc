"""The audit, with the CPU for an accelerator: the dispatcher's hooks and the values are real."""

from __future__ import annotations

import gc
import importlib
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import make_tracker, run_script
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from fasttrack import ExperimentTracker
from fasttrack.audit import session
from fasttrack.audit.findings import Finding
from fasttrack.audit.session import Audit, find_accelerators
from fasttrack.audit.sync_warnings import SyncWarnings
from fasttrack.audit.waits import CUDA_SYNC, advise, find_rule


@pytest.fixture(autouse=True, scope="module")
def _compiler() -> None:
    """An audit loads it, and what it loads sets warning filters."""
    importlib.import_module("torch._dynamo")


Call = Callable[[], object]
SYNC_WARNING = (
    "called a synchronizing CUDA operation (Triggered internally at CUDAFunctions.cpp:144.)"
)
X = torch.tensor([0.25, 0.5, 0.75])
MASK = X > 0.3
ONE = torch.tensor(1)
WEIGHT = torch.ones(3, requires_grad=True)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

WAITS: dict[str, tuple[str, Call]] = {
    "item": ("item", lambda: ONE.item()),
    "float": ("item", lambda: float(ONE)),
    "int": ("item", lambda: int(ONE)),
    "if": ("item", lambda: 1 if ONE else 2),
    "comparison": ("item", lambda: X.sum() < 9 and None),
    "range": ("item", lambda: range(ONE)),
    "format": ("item", lambda: f"{ONE}"),
    "in": ("item", lambda: 0.5 in X),
    "inside_cpp": ("item", lambda: torch.arange(ONE)),  # type: ignore[call-overload]  # torch takes it
    "copy": ("copy to cpu", lambda: X.to("cpu", copy=True)),
    "copy_": ("copy to cpu", lambda: torch.empty(3).copy_(X)),
    "foreach_copy": ("copy to cpu", lambda: torch._foreach_copy_([torch.empty(3)], [X])),
    "nonzero": ("nonzero", lambda: X.nonzero()),
    "where": ("nonzero", lambda: torch.where(MASK)),
    "mask": ("index", lambda: X[MASK]),
    "mask_put": ("index", lambda: X.clone().index_put_((MASK,), X[0].expand(2))),
    "masked_select": ("masked_select", lambda: X.masked_select(MASK)),
    "unique": ("unique", lambda: X.unique()),
    "equal": ("equal", lambda: torch.equal(X, X)),
    "allclose": ("allclose", lambda: torch.allclose(X, X)),
    "bincount": ("bincount", lambda: ONE.expand(2).bincount()),
    "repeat": ("repeat_interleave", lambda: X.repeat_interleave(ONE.expand(3))),
    "linalg": ("linalg check", lambda: torch.linalg.inv(torch.eye(2))),
    "backward": ("index", lambda: WEIGHT[MASK].sum().backward()),
}
NO_WAITS: dict[str, Call] = {
    "arithmetic": lambda: (X * 2 + 1).sum(),
    "index": lambda: X[torch.tensor([0, 2])],
    "fill": lambda: X.clone().index_put_((MASK,), torch.tensor(0.0)),
    "asynchronous": lambda: X.to("cpu", copy=True, non_blocking=True),
    "where": lambda: torch.where(MASK, X, 0.0),
    "shape": lambda: (X.shape, len(X), X.dtype),
}


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    shown, filters = warnings.showwarning, list(warnings.filters)
    yield
    assert torch._C._len_torch_dispatch_stack() == 0
    assert warnings.showwarning is shown
    assert list(warnings.filters) == filters


def quiet() -> Audit:
    """Return an audit of the CPU that prints nothing."""
    return Audit({"cpu"}, silent=True)


def only(audited: Audit) -> Finding:
    """Return the one finding."""
    (finding,) = audited.findings
    return finding


def line_of(call: Call) -> int:
    """Return the line that a lambda is on."""
    return call.__code__.co_firstlineno


# --- what is found --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WAITS)
def test_every_wait_is_found_with_its_line_and_count(name: str) -> None:
    """Whether Python asks for it, C++ within torch, or the backward pass."""
    op, call = WAITS[name]
    with quiet() as audited:
        for _ in range(3):
            call()

    found = {finding.op: finding for finding in audited.findings}
    assert set(found) - {"item"} <= {op}
    assert (found[op].file, found[op].line) == (__file__, line_of(call))
    assert found[op].count % 3 == 0
    assert "lambda: " in found[op].source
    assert not found[op].by_fasttrack


@pytest.mark.parametrize("name", NO_WAITS)
def test_what_does_not_wait_is_not_found(name: str) -> None:
    """Indexing with numbers, filling under a mask, copies that need not be waited for."""
    with quiet() as audited:
        NO_WAITS[name]()

    assert audited.findings == ()
    assert name == "shape" or audited.operations > 0


def test_copies_and_indices_wait_or_not_by_device_and_by_blocking() -> None:
    """With torch's pretended CUDA tensors, which know their device and need none."""
    aten, cuda, cpu = torch.ops.aten, torch.device("cuda"), torch.device("cpu")
    with FakeTensorMode():
        there, here = torch.empty(3, device="cuda"), torch.empty(3)
        mask, numbers = there.bool(), torch.empty(3, dtype=torch.long, device="cuda")
    cases: list[tuple[Any, tuple[Any, ...], dict[str, Any], str | None]] = [
        (aten._to_copy.default, (there,), {"device": cpu}, "copy to cpu"),
        (aten._to_copy.default, (there,), {"device": cpu, "non_blocking": True}, None),
        (aten._to_copy.default, (here,), {"device": cuda}, "copy from cpu"),
        (aten._to_copy.default, (here,), {"device": cuda, "non_blocking": True}, None),
        (aten._to_copy.default, (there,), {"dtype": torch.float64}, None),
        (aten._to_copy.default, (here,), {"device": cpu}, None),
        (aten.copy_.default, (here, there), {}, "copy to cpu"),
        (aten.copy_.default, (here, there, True), {}, "copy to cpu"),  # pageable: it waits
        (aten.copy_.default, (there, here), {}, "copy from cpu"),
        (aten.copy_.default, (there, here), {"non_blocking": True}, None),
        (aten.copy_.default, (there, there), {}, None),
        (aten._foreach_copy_.default, ([there], [here]), {}, "copy from cpu"),
        (aten.index.Tensor, (there, [None, mask]), {}, "index"),
        (aten.index.Tensor, (there, [here.long()]), {}, "index"),
        (aten.index.Tensor, (there, [numbers]), {}, None),
        (aten.index.Tensor, (here, [here.bool()]), {}, None),
        (aten.index_put_.default, (there, [mask], there), {}, "index"),
        (aten.index_put_.default, (there, [mask], here[0]), {}, None),  # a masked_fill_
        (aten.index_put_.default, (there, [mask], here[0], True), {}, "index"),
        (aten.nonzero.default, (there,), {}, "nonzero"),
        (aten.nonzero.default, (here,), {}, None),
    ]

    for operation, args, kwargs, wait in cases:
        rule = find_rule(operation)
        assert rule is not None
        assert rule(args, kwargs, {"cuda"}) == wait, (operation, args, kwargs)


def test_most_operations_have_no_rule() -> None:
    """Nor has what takes functions."""
    operations = (torch.ops.aten.mm.default, torch.ops.aten.neg.default, torch.cond)
    assert [find_rule(operation) for operation in operations] == [None] * 3


def test_operations_of_others_tell_of_themselves_by_torch_tags() -> None:
    """A custom operator whose result depends on values, marked so, is known."""
    library = torch.library.Library("fasttrack_test", "DEF")
    library.define("count(Tensor x) -> int", tags=(torch.Tag.data_dependent_output,))
    library.impl("count", lambda x: int((x > 0.3).sum()), "CPU")

    with quiet() as audited:
        assert torch.ops.fasttrack_test.count(X) == 2

    assert "count" in {finding.op for finding in audited.findings}


def test_sums_add_up_and_the_longest_wait_comes_first() -> None:
    """Times are never negative, and no longer than the block."""
    with quiet() as audited:
        for _ in range(5):
            ONE.item(), X.nonzero()
        X.to("cpu", copy=True)

    totals = [finding.total_ms or 0.0 for finding in audited.findings]
    assert len(totals) == 3
    assert totals == sorted(totals, reverse=True)
    assert min(totals) >= 0
    assert audited.wait_ms == sum(totals)
    assert audited.wait_ms / 1000 <= audited.wall_s
    assert audited.overhead_s >= 0
    for finding in audited.findings:
        assert finding.ms_per_call == (finding.total_ms or 0.0) / finding.count


def test_two_kinds_of_wait_on_a_line_are_two_findings() -> None:
    """And findings can be read before the block has ended."""
    with quiet() as audited:
        X.nonzero(), ONE.item(), ONE.item()
        findings = audited.findings

    assert {(finding.op, finding.count) for finding in findings} == {("nonzero", 1), ("item", 2)}


def test_waits_within_torch_are_the_line_that_called_it() -> None:
    """The optimizer reads its step counters: no line of torch's is the user's to change."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([weight], foreach=False)
    weight.grad = torch.ones(2)
    with quiet() as audited:
        optimizer.step()

    assert only(audited).source == "optimizer.step()"


def test_waits_within_the_standard_library_are_the_line_that_called_it() -> None:
    """`max` of a sorted list of tensors, `statistics.mean`, `copy.deepcopy` ..."""
    import statistics

    with quiet() as audited:
        statistics.fmean([ONE, ONE])

    assert {finding.source for finding in audited.findings} == {"statistics.fmean([ONE, ONE])"}


def test_a_custom_backward_is_found_where_it_is_written() -> None:
    """Not at the call of backward(), whose line says nothing."""

    class Peek(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            assert grad.sum().item() == 3
            return grad

    with quiet() as audited:
        Peek.apply(WEIGHT).sum().backward()  # type: ignore[no-untyped-call]

    assert only(audited).source == "assert grad.sum().item() == 3"


def test_a_wait_of_fasttrack_is_reported_as_its_own() -> None:
    """On the CPU logging reads the value at once; with the CPU for a device that is a wait."""
    with make_tracker() as tracker, quiet() as audited:
        tracker.log_training_step(torch.tensor(0.5), 0)
        tracker.log_metrics({"a": 0.5}, 1)

    finding = only(audited)
    assert finding.by_fasttrack
    assert Path(finding.file).parts[-2:] == ("fasttrack", "quick_calls.py")
    assert (finding.op, finding.count) == ("item", 1)


def test_an_accelerator_is_audited_with_its_autograd_threads() -> None:
    """A backend of its own, made in Python: methods, threads and all, but for CUDA's warnings."""
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch knows no backends made in Python")
    result = run_script(
        "from support import toy_accelerator; toy_accelerator.main()", warnings="default"
    )

    assert result.stdout.splitlines() == [
        "('toy',) True 2",
        "item: grad.item()",
        'copy from cpu: x = torch.ones(3).to("toy")',
        "copy to cpu: x.cpu()",
        "copy to cpu: x.tolist()",
        "copy from cpu: x.copy_(torch.zeros(3))",
        "copy to cpu: x.sum().tolist()",
        "item: float(x.sum())",
        "nonzero: x.nonzero()",
    ]


# --- what stays as it is --------------------------------------------------------------------------


def train(steps: int) -> tuple[list[float], list[torch.Tensor]]:
    """Train a small model with dropout; return losses and weights."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 4)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses, [*model.parameters(), torch.random.get_rng_state()]


def test_training_computes_the_same_bits() -> None:
    """Losses, weights and the state of the random numbers."""
    losses, weights = train(10)
    with quiet() as audited:
        audited_losses, audited_weights = train(10)

    assert audited_losses == losses
    assert all(torch.equal(a, b) for a, b in zip(weights, audited_weights, strict=True))
    assert [one.count for one in audited.findings if "loss.item()" in one.source] == [10]


def test_compiled_functions_stay_compiled_and_their_breaks_are_found() -> None:
    """Neither entering nor leaving the block compiles anything anew."""
    if not hasattr(TorchDispatchMode, "ignore_compile_internals"):
        pytest.skip("this torch runs compiled functions uncompiled under a dispatch mode")
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    @torch.compile(backend=backend)
    def broken(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum().item() > 0 else x - 1

    @torch.compile(backend=backend, fullgraph=True)
    def whole(x: torch.Tensor) -> torch.Tensor:
        return (x.sin() + 1).cos()

    torch._dynamo.reset()
    before = broken(X), whole(X)
    compiled = len(graphs)
    with quiet() as audited:
        within = broken(X), whole(X)
    after = broken(X), whole(X)

    assert len(graphs) == compiled
    assert all(torch.equal(a, b) for a, b in zip(before, within, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert "x.sum().item()" in only(audited).source
    torch._dynamo.reset()


def test_operations_that_take_functions_work() -> None:
    """A dispatch mode that did not say it supports them would make torch raise."""
    if not hasattr(TorchDispatchMode, "supports_higher_order_operators"):
        pytest.skip("this torch has no such operators under any dispatch mode")
    with quiet():
        result = torch.ops.higher_order.cond(torch.tensor(True), lambda x: x + 1, lambda x: x, (X,))

    assert torch.equal(result, X + 1)


def test_other_modes_of_torch_work_below_and_above() -> None:
    """A default device is such a mode, for one."""

    class Seen(TorchFunctionMode):
        names: tuple[str, ...] = ()

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.names += (func.__name__,)
            return func(*args, **(kwargs or {}))

    with torch.device("cpu"), Seen() as seen, quiet() as audited, torch.inference_mode():
        assert torch.ones(2).sum().item() == 2

    assert {"sum", "item"} <= set(seen.names)
    assert only(audited).op == "item"


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_block_as_it_is(
    kind: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    """What was found until then is reported."""
    error, audited = kind("oh"), Audit({"cpu"})

    def block() -> None:
        with audited:
            ONE.item()
            raise error

    with pytest.raises(kind) as caught:
        block()

    assert caught.value is error
    assert only(audited).count == 1
    assert "1 wait for the device at 1 line" in capsys.readouterr().err


def test_an_error_of_torch_is_the_same() -> None:
    """Its type and text, and what waited without success is no wait."""
    with pytest.raises(RuntimeError) as plain:
        X.item()
    with quiet() as audited, pytest.raises(RuntimeError) as watched:
        X.item()

    assert str(watched.value) == str(plain.value)
    assert audited.findings == ()


def test_no_tensor_is_kept_alive() -> None:
    """An audit of a long run must not fill the device's memory."""
    with quiet():
        tensor = torch.ones(3)
        tensor.sum().item()
        tensor.nonzero()
        collected: list[bool] = []
        import weakref

        weakref.finalize(tensor, collected.append, True)
        del tensor
        gc.collect()

    assert collected == [True]


def test_audits_may_be_nested() -> None:
    """Each reports what is within its block."""
    with quiet() as outer:
        ONE.item()
        with quiet() as inner:
            ONE.item()
        ONE.item()

    assert (len(outer.findings), only(inner).count) == (3, 1)


def test_an_audit_that_is_entered_again_begins_anew() -> None:
    """What the first time found is gone."""
    audited = quiet()
    for _ in range(2):
        with audited:
            ONE.item()

    assert only(audited).count == 1


def in_thread(call: Call) -> None:
    """Run a function in a thread and wait for its end; raise what it raised."""
    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    if raised:
        raise raised[0]


def test_other_threads_are_not_audited() -> None:
    """Their waits do not hold up the loop."""
    with quiet() as audited:
        in_thread(lambda: ONE.item())

    assert audited.findings == ()


def test_two_threads_can_audit_at_once_and_leave_in_any_order() -> None:
    """Warnings go to the audit of the thread that synchronised; the last restores the filters."""
    entered, left = threading.Event(), threading.Event()
    audits: list[Audit] = []

    def other() -> None:
        with Audit({"cuda", "cpu"}, silent=True) as audited:
            audits.append(audited)
            entered.set()
            assert left.wait(60)
            warnings.warn(SYNC_WARNING, stacklevel=1)
            ONE.item()

    thread = threading.Thread(target=other)
    with Audit({"cuda", "cpu"}, silent=True) as here:
        thread.start()
        assert entered.wait(60)
        ONE.item()
    left.set()
    thread.join(60)

    assert only(here).op == "item"
    assert {finding.op for finding in audits[0].findings} == {"item", CUDA_SYNC}


# --- CUDA's own warnings --------------------------------------------------------------------------


def test_a_sync_that_only_cuda_knows_of_is_found_by_its_warning() -> None:
    """With file and line; how long it took is not known. pytest turns warnings into errors here."""
    with Audit({"cuda"}, silent=True) as audited:
        for _ in range(3):
            warnings.warn(SYNC_WARNING, stacklevel=1)

    finding = only(audited)
    assert finding.source == "warnings.warn(SYNC_WARNING, stacklevel=1)"
    assert (finding.op, finding.count, finding.total_ms) == (CUDA_SYNC, 3, None)
    assert finding.ms_per_call is None
    assert finding.file == __file__


def test_a_sync_that_both_know_of_is_reported_once() -> None:
    """The warning comes when the call returns: after the operation, on the same line."""
    with Audit({"cuda", "cpu"}, silent=True) as audited:
        ONE.item(), warnings.warn(SYNC_WARNING, stacklevel=1)
        warnings.warn(SYNC_WARNING, stacklevel=1)

    assert [one.op for one in audited.findings] == ["item", CUDA_SYNC]
    assert [one.count for one in audited.findings] == [1, 1]


def test_a_sync_of_another_thread_is_nobodys_and_not_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Our own worker waits for the device: that is what it is for."""
    with Audit({"cuda"}, silent=True) as audited:
        in_thread(lambda: warnings.warn(SYNC_WARNING, stacklevel=1))

    assert audited.findings == ()
    assert capsys.readouterr().err == ""


def test_other_warnings_are_as_they_were() -> None:
    """Filters too: this one is an error in these tests."""
    with Audit({"cuda"}, silent=True) as audited:
        with pytest.raises(UserWarning, match="mine"):
            warnings.warn("mine", stacklevel=1)
        with pytest.warns(UserWarning, match="yours"):
            warnings.warn("yours", stacklevel=1)

    assert audited.findings == ()


def test_a_programs_own_way_of_showing_warnings_is_kept() -> None:
    """It gets all but those that are findings now."""
    shown: list[str] = []

    def show(message: object, *_: object, **__: object) -> None:
        shown.append(str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show
        with Audit({"cuda"}, silent=True):
            warnings.simplefilter("always")
            warnings.warn("mine", stacklevel=1)
            warnings.warn(SYNC_WARNING, stacklevel=1)
        assert warnings.showwarning is show

    assert shown == ["mine"]


def test_nested_audits_both_hear_of_a_sync() -> None:
    """The outer one's line, too."""
    with Audit({"cuda"}, silent=True) as outer, Audit({"cuda"}, silent=True) as inner:
        warnings.warn(SYNC_WARNING, stacklevel=1)

    assert only(outer) == only(inner)


class FakeCuda:
    """torch.cuda's debug mode, without a device."""

    def __init__(self, mode: int) -> None:
        self.mode, self.initialized, self.modes = mode, False, [mode]

    def is_initialized(self) -> bool:
        return self.initialized

    def get_sync_debug_mode(self) -> int:
        assert self.initialized
        return self.mode

    def set_sync_debug_mode(self, debug_mode: int) -> None:
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)
        self.mode = debug_mode
        self.modes.append(debug_mode)


def test_debug_mode_is_on_before_the_first_operation_where_cuda_is_in_use() -> None:
    """A tensor made from a list synchronises where no operation is seen before it.

    The mode came on with the first operation, so that this one was not heard (on an H200).
    """
    cuda = FakeCuda(0)
    cuda.initialized = True
    with Audit({"cuda"}, silent=True, sync_warnings=SyncWarnings(cuda)):
        within = cuda.mode

    assert (within, cuda.mode) == (1, 0)


def test_debug_mode_is_on_within_the_block_only() -> None:
    """From the moment that the program has initialised CUDA: an audit must not, it may fork."""
    cuda = FakeCuda(0)
    syncs = SyncWarnings(cuda)
    with Audit({"cuda"}, silent=True, sync_warnings=syncs):
        ONE.item()
        before = cuda.mode
        cuda.initialized = True
        ONE.neg()
        within = cuda.mode
        with Audit({"cuda"}, silent=True, sync_warnings=syncs):
            ONE.neg()
        after_inner = cuda.mode

    assert (before, within, after_inner, cuda.mode) == (0, 1, 1, 0)
    assert cuda.modes == [0, 1, 0]


@pytest.mark.parametrize("mode", [1, 2])
def test_a_debug_mode_of_the_program_stays(mode: int) -> None:
    """Whoever asked for errors gets them."""
    cuda = FakeCuda(mode)
    cuda.initialized = True
    with Audit({"cuda"}, silent=True, sync_warnings=SyncWarnings(cuda)):
        ONE.neg()

    assert cuda.modes == [mode]


# --- where there is nothing to audit, or it fails -------------------------------------------------


def test_without_an_accelerator_the_block_runs_and_that_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No hook is set: the block is as fast as ever."""
    with Audit(watched=()) as audited:
        hooks = torch._C._len_torch_dispatch_stack()
        ONE.item()

    assert (hooks, audited.findings, audited.devices, audited.operations) == (0, (), (), 0)
    assert capsys.readouterr().err == (
        "[ExperimentTracker] audit: torch finds no accelerator here, so there is nothing to audit\n"
    )


def test_a_loop_that_never_waits_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    """With how much was looked at."""
    with Audit({"cpu"}):
        X.neg()

    report = capsys.readouterr().err
    assert "audit: nothing waited for the device in 0." in report
    assert "(1 operations)" in report


@pytest.mark.parametrize("accelerator", [None, "cuda"])
def test_accelerators_are_looked_for_without_initialising_them(
    monkeypatch: pytest.MonkeyPatch, accelerator: str | None
) -> None:
    """By NVML, for then the program may still fork; its environment is as it was."""
    asked: list[str | None] = []

    class Module:
        @staticmethod
        def is_available() -> bool:
            asked.append(os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK"))
            return True

    device = None if accelerator is None else torch.device(accelerator)
    monkeypatch.delenv("PYTORCH_NVML_BASED_CUDA_CHECK", raising=False)  # Lightning sets it
    for before in (None, "0"):
        if before is not None:
            monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", before)
        found = find_accelerators(lambda: device, lambda _: Module)
        assert found == (() if accelerator is None else (accelerator,))
        assert os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK") == before
    assert asked == ([] if accelerator is None else ["1", "1"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_driver_that_is_missing_is_no_accelerator() -> None:
    """A torch built for CUDA on a machine without; torch.cuda itself is asked."""
    assert find_accelerators(lambda: torch.device("cuda")) == ()


def test_an_audit_that_cannot_start_lets_the_block_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is said once, and nothing of what was begun is left."""

    class Broken(SyncWarnings):
        """Warnings that cannot be listened to."""

        @contextmanager
        def listen(self, hear: Callable[[], None]) -> Iterator[None]:
            raise RuntimeError("broken")
            yield

    with Audit({"cuda", "cpu"}, sync_warnings=Broken(FakeCuda(0))) as audited:
        assert ONE.item() == 1

    assert audited.findings == ()
    assert capsys.readouterr().err == (
        "[ExperimentTracker] audit: failed (RuntimeError('broken')) and may miss waits; "
        "training goes on\n"
    )


@pytest.mark.parametrize("name", ["find_rule", "locate_caller", "make_table"])
def test_an_audit_that_fails_on_the_way_lets_the_block_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Wherever it fails; once is said."""

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    with Audit({"cpu"}):
        monkeypatch.setattr(session, name, broken)
        for _ in range(3):
            assert ONE.item() == 1

    assert capsys.readouterr().err.count("failed (RuntimeError('broken'))") == 1


def test_a_forked_child_reports_nothing() -> None:
    """The block is the parent's; DataLoader workers leave it, too."""
    result = run_script(
        """
        import os
        import torch
        from fasttrack.audit.session import Audit

        with Audit({"cpu"}):
            torch.ones(()).item()
            child = os.fork()
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        else:
            os._exit(torch._C._len_torch_dispatch_stack())
        """,
        warnings="default",
    )

    assert result.stderr.count("1 wait for the device") == 1


# --- the report, and the tracker's method ---------------------------------------------------------


def test_the_report_names_lines_sums_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    """Once for each kind of wait."""
    with Audit({"cpu", "cuda"}) as audited:
        for _ in range(20):
            ONE.item()
        X.nonzero()
        torch.equal(X, X)
        warnings.warn(SYNC_WARNING, stacklevel=1)

    head, columns, *rest = capsys.readouterr().err.splitlines()
    table, advice = rest[:4], "\n".join(rest[4:])
    assert head.startswith("[ExperimentTracker] audit: 23 waits for the device at 4 lines: ")
    assert f"{audited.wait_ms:.3f} ms" in head
    assert f"of {audited.wall_s:.3f} s" in head
    assert columns.split() == ["total", "ms", "count", "ms", "each", "what", "where"]
    for line, finding in zip(table, audited.findings, strict=True):
        assert f"{finding.file}:{finding.line}  {finding.source}" in line
        assert f" {finding.count} " in line
    assert table[-1].split()[:3] == ["?", "1", "?"]
    assert advice.count("log_training_step(loss=loss)") == 1
    assert "nonzero_static" in advice
    assert "The audit made this about" in advice


def test_the_report_shortens_paths_and_long_lines(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Files below the working directory are named from there."""
    script = tmp_path / "train.py"
    script.write_text(f"tensor.item(){' ' * 4}# {'long ' * 50}\n", encoding="utf-8")
    with Audit({"cpu"}):
        exec(compile(script.read_text(encoding="utf-8"), script, "exec"), {"tensor": ONE})

    line = capsys.readouterr().err.splitlines()[2]
    assert "  train.py:1  tensor.item()    # long" in line
    assert line.endswith("...")


def test_every_wait_has_advice() -> None:
    """Whatever it is called."""
    for op in {op for op, _ in WAITS.values()} | {CUDA_SYNC, "copy from cpu"}:
        assert len(advise(op)) > 20


def test_the_trackers_audit_reports_on_its_loop(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And logging within it is not the user's wait."""
    monkeypatch.setattr(session, "find_accelerators", lambda: ("cpu",))
    with make_tracker() as tracker, tracker.audit() as audited:
        for step in range(3):
            loss = torch.ones(()) * step
            tracker.log_training_step(loss, step)
            loss.item()

    theirs = [one for one in audited.findings if not one.by_fasttrack]
    assert [(one.source, one.count) for one in theirs] == [("loss.item()", 3)]
    report = capsys.readouterr().err
    assert "loss.item()" in report
    assert "quick_calls.py" in report
    assert " (fasttrack)" in report


def test_an_inert_trackers_audit_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    """Other ranks have nothing to say."""
    tracker = ExperimentTracker(enabled=False)
    with tracker.audit() as audited:
        ONE.item()

    assert (audited.findings, audited.devices) == ((), ())
    assert capsys.readouterr().err == ""


# --- a real device --------------------------------------------------------------------------------


@pytest.mark.gpu
@needs_gpu
def test_cuda_waits_are_found_once_each_with_their_time() -> None:
    """The dispatcher and the debug mode see the same ones: a warning doubles none."""
    x = torch.rand(1000, device="cuda")
    mask = x > 0.5
    torch.cuda.synchronize()
    with Audit(silent=True) as audited:
        for _ in range(3):
            x.sum().item()
            float(x.sum())
            x.cpu()
            x.tolist()
            x.nonzero()
            x[mask]
            torch.rand(10).to("cuda")
    mode = torch.cuda.get_sync_debug_mode()

    found = sorted((one.line, one.op, one.count) for one in audited.findings)
    assert [(op, count) for _, op, count in found] == [
        ("item", 3),
        ("item", 3),
        ("copy to cpu", 3),
        ("copy to cpu", 3),
        ("nonzero", 3),
        ("index", 3),
        ("copy from cpu", 3),
    ]
    assert all(one.total_ms is not None and one.total_ms > 0 for one in audited.findings)
    assert mode == 0


@pytest.mark.gpu
@needs_gpu
def test_cuda_syncs_that_no_operation_shows_are_heard() -> None:
    """A tensor made from a list is copied where no dispatch mode looks."""
    torch.zeros(1, device="cuda")
    with Audit(silent=True) as audited:
        torch.tensor([1.0, 2.0], device="cuda")

    finding = only(audited)
    assert (finding.op, finding.total_ms) == (CUDA_SYNC, None)
    assert finding.source == 'torch.tensor([1.0, 2.0], device="cuda")'


@pytest.mark.gpu
@needs_gpu
def test_a_cuda_loop_that_logs_with_fasttrack_does_not_wait() -> None:
    """The promise of the hot path, by torch's own debug mode."""
    model = torch.nn.Linear(8, 1).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = torch.rand(4, 8, device="cuda")
    with make_tracker() as tracker:

        def step(number: int) -> None:
            optimizer.zero_grad()
            loss = model(batch).square().mean()
            loss.backward()
            optimizer.step()
            tracker.log_training_step(loss, number, 4, optimizer, model)

        step(0)
        with tracker.audit() as audited:
            for number in range(1, 20):
                step(number)

    assert audited.findings == ()


@pytest.mark.gpu
@needs_gpu
def test_a_wait_in_the_backward_pass_of_a_cuda_loop_is_found() -> None:
    """It happens on a thread of autograd's."""
    weight = torch.ones(10, device="cuda", requires_grad=True)
    mask = torch.arange(10, device="cuda") > 4
    total = weight[mask].sum()
    with Audit(silent=True) as audited:
        total.backward()

    assert {one.source for one in audited.findings} == {"total.backward()"}
