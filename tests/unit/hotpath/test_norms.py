"""Launching a norm: what is computed at once, and what is left to somebody who may wait."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.utils._python_dispatch as dispatch

from fasttrack.hotpath.norms import fused_norm, launch_norm, size_bytes

META = torch.device("meta")


class Operations(dispatch.TorchDispatchMode):
    """Note the name of each operation."""

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note it, and do it."""
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


def sparse(device: str = "cpu") -> torch.Tensor:
    """Return a gradient that names an entry twice: 3 and 4 are one 7."""
    index = torch.tensor([[0, 0, 2]], device=device)
    values = torch.tensor([3.0, 4.0, 24.0], device=device)
    return torch.sparse_coo_tensor(index, values, (5,), check_invariants=device == "cpu")


def test_dense_gradients_are_one_number() -> None:
    """Of whatever dtypes."""
    gradients = [torch.full((4,), 2.0), torch.full((4,), 2.0).bfloat16(), torch.zeros(3).double()]
    (norm,) = launch_norm(gradients)

    assert norm.shape == ()
    assert norm.item() == pytest.approx(32**0.5)


def test_on_the_cpu_sparse_gradients_are_summed_at_once() -> None:
    """Nothing waits there."""
    (norm,) = launch_norm([sparse(), torch.zeros(2)])

    assert norm.item() == pytest.approx(25.0)
    assert fused_norm([sparse(), torch.zeros(2)]).item() == pytest.approx(25.0)


def test_on_a_device_sparse_gradients_are_copied_and_not_summed() -> None:
    """How many entries are left is known on the device only: `coalesce()` waits for it.

    The meta device stands for one: it has no numbers at all.
    """
    gradient = sparse("meta")
    with Operations() as seen:
        parts = launch_norm([torch.ones(3, device=META), gradient])

    assert [part.is_sparse for part in parts] == [False, True]
    assert parts[1] is not gradient
    assert "aten::_coalesce" not in seen.names
    assert "aten::_foreach_norm" in seen.names


def test_the_parts_have_the_norm_of_the_whole() -> None:
    """The worker joins them: here what a caller would have left to it."""
    dense = [torch.full((4,), 1.5), torch.full((2,), -2.0)]
    (norm,) = launch_norm(dense)
    joined = fused_norm([norm, sparse()])

    assert joined.item() == pytest.approx(fused_norm([*dense, sparse()]).item())


def test_gradients_of_several_devices_are_left_apart() -> None:
    """A copy between them may wait."""
    parts = launch_norm([torch.ones(3), torch.ones(3, device=META), torch.ones(2).double()])

    assert {part.device.type for part in parts} == {"cpu", "meta"}


def test_sizes_are_those_of_the_memory_that_is_held() -> None:
    """A sparse gradient of a large embedding takes little."""
    index = torch.tensor([[3]])
    gradient = torch.sparse_coo_tensor(index, torch.ones(1, 8), (10**6, 8), check_invariants=True)

    assert size_bytes(gradient) == 8 * 4 + 8
    assert size_bytes(torch.ones(8)) == 32


@pytest.mark.parametrize("seen_by", [torch.inference_mode, torch.no_grad, torch.autocast])
def test_the_users_modes_change_no_norm(seen_by: Any) -> None:
    """Logged inside of them: autocast must not round the sum of doubles, either."""
    gradients = [torch.full((5,), 1 + 1e-12, dtype=torch.float64)]
    outside = fused_norm(gradients).item()
    with seen_by("cpu") if seen_by is torch.autocast else seen_by():
        (norm,) = launch_norm(gradients)

    assert norm.item() == outside
    assert outside != pytest.approx(5**0.5, rel=1e-13)
