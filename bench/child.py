"""Measure one way of logging in this process: `python -m bench.child RESULT ARGUMENTS`.

The process imports torch, builds and warms the workload, opens the run, waits until what that
starts in the background has started, logs some steps that do not count, measures the loop, closes
the run, and counts the rows that arrived in its files. compare.py starts one per way and round.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.measure import TAILS, LoopTimes, percentile, private_wandb, timed_loop
from bench.peers import PEERS
from bench.probes import DescendantsWatch, memory_mb
from bench.ways import COMPARED

if TYPE_CHECKING:
    from collections.abc import Iterator

_TORCH_WARM_UP_S = 0.3
_WARM_UP_STEPS = 400  # with logging; these do not count
_WARM_UP_S = 1.0

_NO_PROXY = "http://127.0.0.1:9"  # "discard": nothing listens there
_ENVIRONMENT = {
    "COMET_ERROR_TRACKING_ENABLE": "false",
    "COMET_URL_OVERRIDE": _NO_PROXY,
    "DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "http_proxy": _NO_PROXY,
    "https_proxy": _NO_PROXY,
    "no_proxy": "127.0.0.1,localhost",
}
_CLEARED = ("AIM_", "COMET_", "HF_", "MLFLOW_", "SWANLAB_", "TRACKIO_", "XDG_")


@contextlib.contextmanager
def private_home() -> Iterator[Path]:
    """Give all trackers an empty home directory and no way to the network.

    Nothing of the user's is read or written. Telemetry is off, and what asks the network all the
    same meets a proxy that does not answer.
    """
    with private_wandb() as directory:
        for variable in [key for key in os.environ if key.startswith(_CLEARED)]:
            del os.environ[variable]
        os.environ.update(_ENVIRONMENT, HOME=str(directory))
        yield directory


def measure(
    key: str, step_ms: str, metrics: int, steps: int, limit_s: float
) -> dict[str, float | list[float] | None]:
    """Return the figures of one way, units in their names.

    The loop ends after `steps`, or `limit_s` seconds.
    """
    from bench.workload import Workload  # here, not above: it imports torch

    work = Workload(step_ms, metrics)
    timed_loop(work.step, lambda scalars, step: None, 0, steps, _TORCH_WARM_UP_S)
    start_rss_mb = memory_mb()
    build = COMPARED[key][1] if key in COMPARED else PEERS[key].build
    way = build(work)
    start_s = time.perf_counter()
    way.open()
    open_s = time.perf_counter() - start_s
    way.settle()
    warm_up = timed_loop(work.step, way.log, 0, min(_WARM_UP_STEPS, steps), _WARM_UP_S)
    first_step = len(warm_up.step_s)
    start_cpu_s = _cpu_s(resource.RUSAGE_SELF)
    times = timed_loop(work.step, way.log, first_step, steps, limit_s)
    loop_cpu_s = _cpu_s(resource.RUSAGE_SELF) - start_cpu_s
    peak_rss_mb = memory_mb("VmHWM")
    others = DescendantsWatch()
    others.look()
    start_s = time.perf_counter()
    way.close()
    finish_s = time.perf_counter() - start_s
    way.reap()
    done = len(times.step_s)
    return {
        "steps": done,
        **_loop_figures(times),
        "cpu_per_step_ms": loop_cpu_s / done * 1e3,
        "other_processes_cpu_s": _cpu_s(resource.RUSAGE_CHILDREN),
        "other_processes_peak_rss_mb": others.total().peak_mb,
        "start_rss_mb": start_rss_mb,
        "peak_rss_mb": peak_rss_mb,
        "open_s": open_s,
        "finish_s": finish_s,
        "rows_expected": way.expected(first_step + done),
        "rows_arrived": way.arrived(),
    }


def _loop_figures(times: LoopTimes) -> dict[str, float | list[float]]:
    done = len(times.step_s)
    step_ms = sorted(seconds * 1e3 for seconds in times.step_s)
    return {
        "mean_step_ms": times.loop_s / done * 1e3,
        **{f"step_p{p:g}_ms": percentile(step_ms, p) for p in (50, 99, 99.9)},
        **{f"call_p{p:g}_us": percentile(times.call_s, p) * 1e6 for p in (50, 99)},
        # What each share of the steps takes at least, down to the slowest one.
        "step_tail_ms": [step_ms[-int(done * tail)] for tail in TAILS if done * tail >= 1],
    }


def _cpu_s(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def _main(result: str, arguments: str) -> None:
    with private_home():
        figures: dict[str, Any] = measure(*json.loads(arguments))
        Path(result).write_text(json.dumps(figures))


if __name__ == "__main__":
    _main(*sys.argv[1:])
