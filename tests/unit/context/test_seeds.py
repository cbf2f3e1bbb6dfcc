"""Seeding every generator, and knowing afterwards what was set."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from support.runs import run_script

from fasttrack import ConfigurationError, set_seeds
from fasttrack.context import seeds
from fasttrack.context.seeds import describe_seeds


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(seeds, "_applied", None)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield
    random.setstate(kept[0])
    np.random.set_state(kept[1])
    torch.set_rng_state(kept[2])
    if torch.are_deterministic_algorithms_enabled():  # setting it loads much of torch
        torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def draw() -> tuple[Any, ...]:
    """Return a number of each generator."""
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.mark.parametrize("seed", [0, 42, 2**32 - 1, np.int64(7)])
def test_same_seed_draws_the_same_numbers_from_every_generator(seed: int) -> None:
    """Python's, NumPy's and PyTorch's."""
    set_seeds(seed)
    first = draw()
    set_seeds(seed)

    assert draw() == first
    set_seeds(1)
    assert not set(draw()) & set(first)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, True, "1", None, torch.tensor(0.5)], ids=repr)
def test_seed_out_of_range_is_refused_and_nothing_is_seeded(seed: Any) -> None:
    """NumPy's range is the narrowest, and the others must not have been set by then."""
    before = random.getstate(), torch.get_rng_state().tolist()

    with pytest.raises(ConfigurationError, match=r"seed must be an integer from 0 to 4294967295"):
        set_seeds(seed)

    assert (random.getstate(), torch.get_rng_state().tolist()) == before
    assert describe_seeds()["set_seeds"] is None


def test_rank_offset_gives_each_rank_its_own_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that augment alike see the same data twice; the largest seed wraps around."""
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")

    assert set_seeds(10) == 10
    assert set_seeds(10, rank_offset=True) == 13
    assert torch.initial_seed() == 13
    assert set_seeds(2**32 - 1, rank_offset=True) == 2


def test_deterministic_asks_pytorch_for_deterministic_algorithms() -> None:
    """All three switches and cuBLAS's variable, without which PyTorch raises on CUDA."""
    set_seeds(1, deterministic=True)

    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_users_own_cublas_setting_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """`:16:8` is deterministic too, and takes less memory."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")

    set_seeds(1, deterministic=True)

    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_without_deterministic_the_settings_stay_as_they_are() -> None:
    """A second call for another seed does not undo the first one's settings."""
    set_seeds(1, deterministic=True)
    set_seeds(2)

    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic


def test_what_was_set_is_known_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers that a run can be repeated with."""
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    monkeypatch.setenv("RANK", "1")

    set_seeds(41, rank_offset=True)

    assert describe_seeds() == {
        "python": 42,
        "numpy": 42,
        "torch": 42,
        "cuda": None,
        "pythonhashseed": "0",
        "set_seeds": {
            "seed": 41,
            "deterministic": False,
            "rank_offset": True,
            "seed_with_offset": 42,
        },
    }


def test_only_pytorch_tells_a_seed_that_was_set_elsewhere() -> None:
    """Python and NumPy do not; better None than a wrong number."""
    torch.manual_seed(5)

    known = describe_seeds()

    assert known["torch"] == 5
    assert [known[name] for name in ("python", "numpy", "cuda", "set_seeds")] == [None] * 4


def test_asking_loads_nothing() -> None:
    """No torch, no NumPy: a process that does not use them has no such seeds."""
    run_script(
        """
        import sys
        from fasttrack.context.seeds import describe_seeds
        assert describe_seeds()["torch"] is None
        assert not {"torch", "numpy"} & set(sys.modules)
        """,
        fresh=True,
    )
