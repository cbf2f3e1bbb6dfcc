"""Capture: what is kept, what it is worth when the worker reads it, and what is refused."""

from __future__ import annotations

import enum
import math
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch

from fasttrack.errors import ValueRefusedError
from fasttrack.hotpath.capture import (
    Capture,
    mark_streams,
    step_number,
)
from fasttrack.hotpath.gradients import GradientSource
from fasttrack.hotpath.records import VALUES, Record
from fasttrack.notices import Notices
from fasttrack.worker.resolve import Resolver

MODES = ("snapshot", "reference")
FLOAT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
FLOAT8_DTYPES = (
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
)
INTEGER_DTYPES = (
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)
NUMPY_FLOATS = ("float16", "float32", "float64")
NUMPY_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")


class Bench:
    """A capture and the resolver behind it, with nothing in between."""

    def __init__(self, mode: str) -> None:
        """Capture by `mode`."""
        self.notices = Notices()
        self.capture = Capture(mode)
        gradients = GradientSource("off", 0, self.notices.warn)
        self.resolver = Resolver(self.capture, gradients, self.notices)

    def capture_one(self, value: Any, name: str = "m") -> Any:
        """Return a record of one captured value."""

        def refuse(metric: str, why: str) -> None:
            raise ValueRefusedError(why)

        values: dict[str, Any] = {name: value}
        pending = self.capture.mapping(values, refuse)
        events = mark_streams({tensor.device for tensor in (pending or {}).values()})
        return Record(0, 0.0, values, pending, None, None, events)

    def resolve(self, record: Any) -> dict[str, Any]:
        """Return the record's values as the worker sees them."""
        (row,) = self.resolver.resolve([record])
        values: dict[str, Any] = row[VALUES]
        return values


@pytest.fixture(params=MODES)
def bench(request: pytest.FixtureRequest) -> Bench:
    """One bench for each capture mode."""
    return Bench(request.param)


class Colour(enum.IntEnum):
    """A subclass of int."""

    RED = 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.5, 1.5),
        (3, 3),
        (2**70, 2**70),
        (True, 1),
        (False, 0),
        (Colour.RED, 3),
        (-0.0, -0.0),
        (math.inf, math.inf),
        (np.float64(0.25), 0.25),
        (np.bool_(True), 1),
        (np.array(2.5), 2.5),
        (np.array([[7]]), 7),
        (np.array([False]), 0),
    ],
)
def test_numbers_come_out_as_plain_numbers(bench: Bench, value: Any, expected: Any) -> None:
    """Python and NumPy numbers resolve to exactly float or int, whichever they are."""
    result = bench.resolve(bench.capture_one(value))["m"]

    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize("dtype", NUMPY_FLOATS + NUMPY_INTEGERS)
def test_numpy_scalars_of_every_dtype_keep_their_value(bench: Bench, dtype: str) -> None:
    """NumPy scalars, 0-dim and one-element arrays give what float() or int() gives."""
    scalar = np.dtype(dtype).type(1.3 if dtype.startswith("float") else 1)
    convert = float if dtype.startswith("float") else int
    results = [
        bench.resolve(bench.capture_one(value))["m"]
        for value in (scalar, np.array(scalar), np.array([scalar]))
    ]

    assert results == [convert(scalar)] * 3
    assert {type(result) for result in results} == {convert}


def test_numpy_long_double_is_taken_as_a_float(bench: Bench) -> None:
    """`np.longdouble.item()` returns a NumPy scalar, not a float; it is a real number all the same.

    fasttrack refused it once, as "a longdouble is not one real number".
    """
    assert bench.resolve(bench.capture_one(np.longdouble(1.5)))["m"] == 1.5


def test_nan_is_kept(bench: Bench) -> None:
    """NaN is truth, from a float and from a tensor."""
    assert math.isnan(bench.resolve(bench.capture_one(math.nan))["m"])
    assert math.isnan(bench.resolve(bench.capture_one(torch.tensor(math.nan)))["m"])


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
@pytest.mark.parametrize("dtype", FLOAT_DTYPES + FLOAT8_DTYPES)
def test_float_tensors_give_what_float_gives(
    bench: Bench, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    """Every floating dtype, 0-dim or with one element."""
    tensor = torch.full(shape, 1.3).to(dtype)
    result = bench.resolve(bench.capture_one(tensor))["m"]

    assert result == float(tensor)
    assert type(result) is float


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
def test_integer_tensors_give_what_int_gives(
    bench: Bench, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    """Every integer dtype at its largest value, which no float in between may round."""
    tensor = torch.full(shape, torch.iinfo(dtype).max, dtype=dtype)
    result = bench.resolve(bench.capture_one(tensor))["m"]

    assert result == torch.iinfo(dtype).max
    assert type(result) is int


@pytest.mark.parametrize("value", [True, False])
def test_bool_tensors_become_ints(bench: Bench, value: bool) -> None:
    """A flag is 0 or 1 in a chart."""
    result = bench.resolve(bench.capture_one(torch.tensor(value)))["m"]

    assert result == int(value)
    assert type(result) is int


def test_tensors_of_every_kind_are_read(bench: Bench) -> None:
    """A live graph, a Parameter, views, and tensors made in inference mode."""
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    with torch.inference_mode():
        inferred = torch.tensor(5.0)
        captured_inside = bench.capture_one(torch.tensor(7.0))
    kinds = [weight, (weight * 3).sum(), torch.arange(9.0)[4:5], torch.ones(3, 2).T[0, 1], inferred]
    records = [bench.capture_one(tensor) for tensor in kinds]

    assert [bench.resolve(record)["m"] for record in records] == [2.0, 6.0, 4.0, 1.0, 5.0]
    assert bench.resolve(captured_inside)["m"] == 7.0


def test_a_live_graph_is_let_go(bench: Bench) -> None:
    """What is kept holds no autograd graph, hence no activations."""
    loss = (torch.ones(3, requires_grad=True) * 2).sum()
    record = bench.capture_one(loss)

    assert all(tensor.grad_fn is None for tensor in (record.pending or {}).values())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("0.5", "str '0.5'"),
        (None, "NoneType"),
        ([1.0], "list"),
        (1 + 2j, "complex"),
        (b"1", "bytes"),
        (np.array([1.0, 2.0]), "ndarray"),
        (np.array([]), "ndarray"),
        (np.complex64(1), "complex64"),
        (np.str_("1"), "str_"),
        (np.datetime64("2020-01-01"), "datetime64"),
        (torch.ones(2), r"shape \(2,\).*tensor.mean\(\)"),
        (torch.ones(0), r"shape \(0,\)"),
        (torch.tensor(1 + 2j), "dtype torch.complex64"),
        (torch.empty((), dtype=torch.bits8), "dtype torch.bits8"),
    ],
)
def test_what_is_not_one_real_number_is_refused_by_name(
    bench: Bench, value: Any, reason: str
) -> None:
    """The reason says what came, so that the user finds it."""
    with pytest.raises(ValueRefusedError, match=reason):
        bench.capture.scalar("m", value)


def test_a_huge_tensor_is_refused_without_being_copied_or_printed(bench: Bench) -> None:
    """Eight terabytes that no memory holds: only the shape is looked at."""
    huge = torch.zeros(1).expand(2**20, 2**20)

    with pytest.raises(ValueRefusedError, match=r"shape \(1048576, 1048576\)"):
        bench.capture.scalar("m", huge)


def test_a_tensor_without_data_is_refused_somewhere(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """A meta tensor has no value: it is refused by name and takes nothing along."""
    refused: list[str] = []
    values: dict[str, Any] = {"meta": torch.empty((), device="meta"), "good": 1.0}
    pending = bench.capture.mapping(values, lambda name, why: refused.append(name))
    record = Record(0, 0.0, values, pending, None, None, ())
    resolved = bench.resolve(record)

    assert resolved == {"good": 1.0}
    assert refused == ["meta"] or "meta" in capsys.readouterr().err


def test_mapping_refuses_one_value_and_keeps_the_others(bench: Bench) -> None:
    """Every refusal names its metric; names are kept in order."""
    refused: list[tuple[str, str]] = []
    values = {"a": 1, "b": "no", "c": torch.tensor(2.0), "d": torch.ones(3), "e": True}
    bench.capture.mapping(values, lambda name, why: refused.append((name, why)))

    assert list(values) == ["a", "c", "e"]
    assert [name for name, _ in refused] == ["b", "d"]
    assert "'no'" in refused[0][1]


def test_a_tensor_that_raises_while_it_is_read_is_refused() -> None:
    """PyTorch's own error becomes the reason (here: a value inside vmap has no number)."""
    bench = Bench("snapshot")
    refused: list[str] = []

    def inside(x: torch.Tensor) -> torch.Tensor:
        bench.capture.mapping({"m": x}, lambda name, why: refused.append(why))
        return x

    torch.vmap(inside)(torch.ones(2))

    assert len(refused) == 1
    assert "item" in refused[0]


def test_a_snapshot_is_not_moved_by_a_later_change_in_place() -> None:
    """`running_loss.zero_()` after logging: the logged value stays."""
    bench = Bench("snapshot")
    running_loss = torch.tensor(4.0)
    record = bench.capture_one(running_loss)
    running_loss.zero_()

    assert bench.resolve(record)["m"] == 4.0
    assert bench.notices.counts() == {}


def test_a_reference_changed_in_place_is_stale_and_the_metric_is_snapshotted_from_then_on() -> None:
    """The wrong value is dropped and counted once; the next one is right."""
    bench = Bench("reference")
    running_loss = torch.tensor(4.0)
    other = torch.tensor(1.0)
    stale = bench.capture_one(running_loss)
    untouched = bench.capture_one(other, "other")
    running_loss.zero_()
    dropped, kept = bench.resolve(stale), bench.resolve(untouched)
    running_loss.fill_(6.0)
    again = bench.capture_one(running_loss)
    running_loss.zero_()

    assert dropped == {}
    assert kept == {"other": 1.0}
    assert bench.notices.counts() == {"stale": 1}
    assert bench.resolve(again) == {"m": 6.0}
    assert isinstance(bench.capture.scalar("other", other), tuple)


def test_a_reference_is_a_reference() -> None:
    """The reference mode copies nothing: it sees the tensor's own memory."""
    tensor = torch.tensor(4.0)
    kept = Bench("reference").capture.scalar("m", tensor)

    assert isinstance(kept, tuple)
    assert kept[0].data_ptr() == tensor.data_ptr()


def test_pending_tensors_are_those_the_worker_must_read() -> None:
    """Plain numbers are not pending; references are undone."""
    tensor = torch.tensor(1.0)
    capture = Bench("reference").capture

    values: dict[str, Any] = {"a": 1.0, "b": tensor}
    pending = capture.mapping(values, lambda name, why: None)

    assert isinstance(values["b"], tuple)
    assert pending is not None
    assert pending["b"].data_ptr() == tensor.data_ptr()
    assert capture.mapping({"a": 1.0}, lambda name, why: None) is None


@pytest.mark.parametrize(
    ("step", "expected"),
    [(5, 5), (np.int64(5), 5), (torch.tensor(5), 5), (5.0, 5), (np.float64(5.0), 5), (-1, -1)],
)
def test_whole_numbers_are_steps(step: Any, expected: int) -> None:
    """Whatever counts, as long as it is whole."""
    assert step_number(step) == expected
    assert type(step_number(step)) is int


@pytest.mark.parametrize(
    "step", [True, 1.5, "5", None, math.nan, math.inf, torch.tensor(1.5), torch.ones(2)]
)
def test_what_is_no_whole_number_is_no_step(step: Any) -> None:
    """A step that is not whole is refused, with what it was."""
    with pytest.raises(ValueRefusedError, match="step must be an integer"):
        step_number(step)


def test_a_step_on_a_device_is_refused() -> None:
    """Reading it would wait for the device."""
    with pytest.raises(ValueRefusedError, match="pass an int"):
        step_number(torch.ones((), device="meta"))


def test_the_cpu_needs_no_events() -> None:
    """Nor does a device that has none: it is asked once."""
    assert mark_streams([torch.device("cpu"), torch.device("meta")]) == ()
    assert mark_streams([]) == ()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", FLOAT_DTYPES + FLOAT8_DTYPES + INTEGER_DTYPES + (torch.bool,))
def test_cuda_tensors_of_every_dtype_are_read(bench: Bench, dtype: torch.dtype) -> None:
    """The same on a device: one copy for each dtype of a batch."""
    tensors = deque(torch.full((1,), 1.0, device="cuda").to(dtype) for _ in range(3))
    records = [bench.capture_one(tensor) for tensor in tensors]

    assert [row[VALUES]["m"] for row in bench.resolver.resolve(records)] == [1, 1, 1]
    assert bench.notices.counts() == {}
