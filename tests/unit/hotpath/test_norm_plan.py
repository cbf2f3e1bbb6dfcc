"""Norms of many tensors by few operations: those of each tensor alone, whatever they are."""

from __future__ import annotations

import math

import pytest
import torch

from fasttrack.hotpath.norm_plan import NormPlan


def tensors(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Return small ones of three shapes, mixed, and some that are large, alone or empty."""
    torch.manual_seed(0)
    shapes: list[tuple[int, ...]] = [(8, 8), (5,), (), (3, 2, 4)] * 20
    shapes += [(100, 100), (7,), (0,), (64, 32), (64, 32)] + [(2048,)] * 20
    return [torch.randn(shape, dtype=dtype) * (place + 1) for place, shape in enumerate(shapes)]


def read(plan: NormPlan, some: list[torch.Tensor]) -> list[float]:
    """Return the norms that a plan finds."""
    return [*plan.in_order([n for vector in plan.launch(some) for n in vector.tolist()])]


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64]
)
def test_norms_are_those_of_each_tensor_in_its_place(dtype: torch.dtype) -> None:
    """Half precision is accumulated in float32, and complex numbers by their size."""
    some = tensors(dtype)
    plan = NormPlan(some)
    expected = [t.to(torch.complex128).abs().square().sum().sqrt().item() for t in some]

    assert read(plan, some) == pytest.approx(expected, rel=1e-5)
    assert len(plan.launch(some)) < 12  # of 105


def test_dtypes_may_be_mixed_and_memory_need_not_be_dense() -> None:
    """A gradient may be expanded, transposed or a slice."""
    some = [
        each
        for number in range(1, 11)
        for each in (
            torch.ones(8, 8) * number,
            torch.full((1,), float(number)).expand(8, 8),
            torch.arange(64.0).view(8, 8).t() * number,
            torch.ones(8, 16, dtype=torch.float64)[:, ::2] * number,
            torch.ones(2, dtype=torch.bfloat16) * number,
        )
    ]
    expected = [math.sqrt(t.double().square().sum().item()) for t in some]

    assert read(NormPlan(some), some) == pytest.approx(expected, rel=1e-6)


def test_half_precision_that_came_after_the_plan_is_accumulated_in_float32() -> None:
    """As with `model.half()`, which leaves a model its parameters; of some the norm overflows."""
    some = [torch.full(shape, 250.0) for shape in [(40, 40)] * 20 + [(300, 300), (3,)]]
    plan = NormPlan(some)
    for tensor in some[:15] + some[20:]:
        tensor.data = tensor.half()
    expected = [250.0 * math.sqrt(t.numel()) for t in some]

    assert read(plan, some) == pytest.approx(expected, rel=1e-4)


def test_what_is_no_finite_number_stays_where_it_is() -> None:
    """Beside others of its shape."""
    some = [torch.ones(2, 2) for _ in range(40)]
    some[3][0, 1] = math.nan
    some[29][1, 1] = -math.inf
    found = read(NormPlan(some), some)

    assert [place for place, norm in enumerate(found) if not math.isfinite(norm)] == [3, 29]
    assert (math.isnan(found[3]), found[29]) == (True, math.inf)


def test_sparse_gradients_are_not_as_planned() -> None:
    """They are normed one by one then."""
    some = [torch.ones(4, 4) for _ in range(10)]
    plan = NormPlan(some)
    some[4] = some[4].to_sparse()

    with pytest.raises(RuntimeError):
        plan.launch(some)
