"""The GPUs of this machine, by the real NVML and by torch: what a node and a rank tell of them."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import pytest
import torch
from support.journals import read_rows
from support.runs import wait_until
from support.trackers import journal_only

from fasttrack.hotpath.capture import Capture
from fasttrack.hotpath.gradients import GradientSource
from fasttrack.nodes.gpus import NodeGpus
from fasttrack.notices import Notices
from fasttrack.ranks.parts import _Device
from fasttrack.worker.resolve import Resolver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.trackers import Trackers

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GIB = 2**30


@pytest.fixture
def gpus() -> Iterator[NodeGpus]:
    """All that this process may see; skips where there is no NVML."""
    found = NodeGpus()
    if found.reason is not None:
        pytest.skip(f"no NVML: {found.reason}")
    yield found
    found.close()


def test_every_gpu_that_torch_sees_is_sampled(gpus: NodeGpus) -> None:
    """Each once, with its own memory; what a GPU does not tell is left out."""
    held = torch.ones(GIB // 4, dtype=torch.uint8, device="cuda")
    facts, samples = gpus.facts(), gpus.sample()

    assert held.numel() == GIB // 4
    assert len(facts) == len(samples) == torch.cuda.device_count()
    assert len({each["uuid"] for each in facts}) == len(facts)
    ours = torch.cuda.get_device_properties(0).total_memory / GIB
    assert any(abs(each["memory_gb"] - ours) < 0.1 * ours for each in facts)
    assert max(each["memory_used_gb"] for each in samples) > 0.25
    for sample in samples:
        assert all(math.isfinite(value) for value in sample.values())
        assert 0 <= sample.get("utilization", 0) <= 100
        assert sample.get("clock_sm_mhz", 1) > 0


def test_a_run_of_all_nodes_has_the_gpus_of_this_one(gpus: NodeGpus, make: Trackers) -> None:
    """As the process that trains samples them, which is the only one here."""
    tracker = make(options=journal_only(nodes="all", nodes_interval_s=0.1))
    run_dir = tracker.get_run_dir()
    assert run_dir is not None
    steps = iter(range(10**9))

    def sampled() -> set[str]:
        tracker.log_training_step(0.5, next(steps))
        names = {name for row in read_rows(run_dir) for name in row.values}
        return {name for name in names if re.fullmatch(r"gpu/[^/]+/\d+/memory_used_gb", name)}

    wait_until(lambda: len(sampled()) == len(gpus.facts()))


def test_a_rank_tells_its_allocators_peak_and_its_gpu() -> None:
    """Of memory that was freed, too."""
    notices = Notices()
    resolver = Resolver(Capture("snapshot"), GradientSource("off", GIB, notices.warn), notices)
    device = _Device(resolver)
    held = torch.ones(GIB // 4, dtype=torch.uint8, device="cuda")
    del held

    peak_gb = device.memory_peak_gb()
    assert peak_gb == torch.cuda.max_memory_allocated(0) / GIB
    assert peak_gb >= 0.25
    assert device.describe().startswith(f"GPU 0: {torch.cuda.get_device_properties(0).name}")
