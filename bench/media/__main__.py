"""What does a picture cost the caller? `python -m bench.media`.

After each twentieth step of a small model a frame is copied, as `log_media` copies it, and another
is logged; their order alternates, and copies are kept for as long as the worker keeps its own, so
that both find as much fresh memory. What is told is the median of each, and of their
difference in one step: the call beside the copy; and the same in CPU time of the caller's thread,
which says something on a busy machine as well. Nothing is delivered; the worker writes the files
meanwhile. About a minute.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.lib.arguments import make_parser
from bench.lib.isolation import private_home
from bench.lib.measure import US, describe_machine, machine, table
from bench.lib.workload import Workload
from fasttrack import ExperimentTracker, Options

if TYPE_CHECKING:
    from collections.abc import Callable

_HEADINGS = ("a frame of 512 x 512", "copy, us", "call, us", "call - copy, us", "of CPU, us")
_SIDE = 512
_EVERY = 20  # steps between frames: the disk must keep up
_KEPT = 8  # copies, then all are let go: as many come in one of the worker's rounds


def frames() -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    """Return what is logged by what it is called, and how such a thing is copied."""
    pixels = np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    return {
        "array of RGB bytes": (pixels, np.array),
        "tensor of RGB bytes": (tensor, lambda value: np.array(value.numpy())),
        "tensor of RGB floats": (tensor.float() / 255, lambda value: np.array(value.numpy())),
        "array of grey bytes": (pixels[:, :, 0].copy(), np.array),
    }


def measure(frame: Any, copy: Callable[[Any], Any], count: int) -> list[str]:
    """Return a line of the table."""
    workload = Workload()
    copies: list[tuple[float, float]] = []
    calls: list[tuple[float, float]] = []
    kept: list[Any] = []
    options = Options(backends=("none",), console=False, media_limit_mb=1024)
    with ExperimentTracker(tags=None, required_tags=(), options=options) as tracker:
        for step in range(count * _EVERY):
            workload.step(step)
            if step % _EVERY:
                continue
            for copying in (True, False) if step // _EVERY % 2 else (False, True):
                begin_s, begin_cpu_s = time.perf_counter(), time.thread_time()
                if copying:
                    kept.append(copy(frame))
                else:
                    tracker.log_media("frame", frame, step)
                cpu_s, wall_s = time.thread_time() - begin_cpu_s, time.perf_counter() - begin_s
                (copies if copying else calls).append((wall_s, cpu_s))
            if len(kept) == _KEPT:
                kept.clear()
        assert tracker.flush(60.0)
    stats = tracker.stats()
    assert (stats.media_dropped, stats.refused) == (0, 0)
    pairs = list(zip(calls, copies, strict=True))
    told = (
        statistics.median(wall_s for wall_s, _ in copies),
        statistics.median(wall_s for wall_s, _ in calls),
        statistics.median(call[0] - copied[0] for call, copied in pairs),
        statistics.median(call[1] - copied[1] for call, copied in pairs),
    )
    return [f"{seconds * US:.0f}" for seconds in told]


def main() -> None:
    """Print the table."""
    parser = make_parser("bench.media", __doc__)
    parser.add_argument("--frames", type=int, default=300, help="of each kind")
    arguments = parser.parse_args()
    with private_home():
        told = [[name, *measure(*one, arguments.frames)] for name, one in frames().items()]
    print(f"{table(_HEADINGS, told)}\n\n{describe_machine(machine())}")


if __name__ == "__main__":
    main()
