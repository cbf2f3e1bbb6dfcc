"""Uses that must pass `mypy --strict`, and the exact types that a user gets."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from typing_extensions import assert_type

import fasttrack
from fasttrack import (
    Audio,
    ConfigurationError,
    DirectoryError,
    ExperimentTracker,
    FasttrackError,
    Histogram,
    Html,
    Image,
    Options,
    Stats,
    Table,
    Text,
    Video,
    compute_grad_norm,
    flops_per_token,
    get_all_gpu_stats,
    get_amp_scale,
    get_learning_rate,
    get_metadata,
    is_main_process,
    open_run,
    runs,
    set_seeds,
)
from fasttrack.audit.findings import Finding
from fasttrack.runs import History, LocalRun, Run, find_run
from fasttrack.testing import MemoryTracker, memory_tracker

TAGS = {"model": "eo1", "dataset": "lego", "objective": "ar+fm", "experiment_group": "baseline"}


@dataclasses.dataclass
class Config:
    """A configuration of somebody's."""

    lr: float = 0.1


model = torch.nn.Linear(2, 1)
optimizer = torch.optim.AdamW(model.parameters())
scaler = torch.amp.GradScaler("cuda")
loss = model(torch.ones(2)).sum()


def construct(read_only: Mapping[str, str], name: str | None) -> None:
    """Every argument, and every form that one takes."""
    ExperimentTracker()
    ExperimentTracker("vla-lego", {"lr": 0.1}, TAGS, "a name", "ab12cd34")
    ExperimentTracker(
        project=None,
        config=None,
        tags=read_only,
        name=name,
        resume_id=None,
        mode="offline",
        entity=None,
        enabled=False,
        log_interval=1,
        gpu_stats_interval=50,
        group=None,
        notes=None,
        required_tags=("model",),
        options=Options(),
    )
    for config in (Config(), argparse.Namespace(lr=0.1), {"nested": {"lr": [0.1]}}):
        ExperimentTracker(config=config, required_tags=[], options=None)


def log(tracker: ExperimentTracker) -> None:
    """Every method that logs; values are numbers of any make."""
    for step in range(10):
        tracker.log_training_step(loss, step)
        tracker.log_training_step(loss, step, 32, optimizer, model)
        tracker.log_training_step(
            loss=loss,
            step=step,
            batch_size=32,
            optimizer=optimizer,
            model=model,
            scaler=scaler,
            loss_ar=loss,
            loss_fm=0.5,
            grad_norm=torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0),
            extra={"a": 1},
            tokens=4096,
        )
        tracker.log_training_step(loss, step, tokens=torch.tensor(7))
        tracker.log_training_step(loss=None, step=step, optimizer=optimizer)
        assert_type(tracker.reduce(0.5), torch.Tensor)
        assert_type(tracker.reduce({"a": 0.5, "b": 1}, "max"), dict[str, torch.Tensor])
        norm = tracker.reduce_grad_norm(model, group=None)
        tracker.log_training_step(tracker.reduce(loss, op="sum"), step, grad_norm=norm)
        tracker.log_metrics({"a": 0.5, "b": 1, "c": loss, "d": np.float32(1)}, step)
        tracker.log_metrics(metrics={"nested": {"a": 0.5}}, step=step)
        with tracker.pause():
            tracker.log_metrics({"val/loss": 0.5}, step)
        with tracker.phase("data"), tracker.phase(name="forward"):
            pass
        assert_type(tracker.should_stop(), bool)
        if tracker.should_stop():
            break
    for batch in tracker.data([1, 2]):
        assert_type(batch, int)
    tracker.log_metrics({"a": 0.5})
    tracker.log_metrics({"a": 0.5}, step=None)
    tracker.log_config({"lr": 0.1})
    tracker.log_config(Config())
    tracker.update_config({"parameters": 3})
    tracker.log_checkpoint("model.pt")
    tracker.log_checkpoint(Path("model.pt"), aliases=["latest", "best"], force=True)
    tracker.log_checkpoint(path="model.pt", aliases=("best",))


def log_media(tracker: ExperimentTracker) -> None:
    """Every type of media, and what stands for one without its type."""
    tracker.log_media("samples", np.zeros((8, 8, 3), np.uint8), 3)
    tracker.log_media("samples", [Image(loss, caption="a 9"), Image("a.png")], step=None)
    tracker.log_media("weights", Histogram([1.0, 2.0], num_bins=16))
    tracker.log_media("confusion", Table(columns=["is", "said"], data=[[9, 4]]))
    tracker.log_media("voice", Audio(np.zeros(160), sample_rate=16_000, caption="a"))
    tracker.log_media("page", Html("<p>"))
    tracker.log_media("answer", Text(Path("answer.txt")))
    tracker.log_media(name="film", value=Video("a.mp4"), step=3)


def ask(tracker: ExperimentTracker) -> None:
    """Every method that answers."""
    assert_type(tracker.get_run_id(), str | None)
    assert_type(tracker.get_run_name(), str | None)
    assert_type(tracker.get_run_url(), str | None)
    assert_type(tracker.get_run_dir(), Path | None)
    assert_type(tracker.is_active(), bool)
    assert_type(tracker.is_offline(), bool)
    assert_type(tracker.flush(), bool)
    assert_type(tracker.flush(timeout_s=1.0), bool)
    assert_type(tracker.stats(), Stats)
    assert_type(tracker.stop_reason(), str | None)
    tracker.request_stop("diverged")
    with tracker.audit() as audited:
        pass
    assert_type(audited.findings, tuple[Finding, ...])
    assert_type(audited.wait_ms, float)
    assert_type(audited.report(), str)


def end(tracker: ExperimentTracker) -> None:
    """Every way to end a run."""
    tracker.finish()
    tracker.finish(1)
    tracker.finish(exit_code=143, preempting=True)
    with tracker as entered:
        assert_type(entered, ExperimentTracker)
    with ExperimentTracker() as made:
        assert_type(made, ExperimentTracker)


def code_behind_a_with_block_is_reached(tracker: ExperimentTracker) -> int:
    """The block swallows no exception, or a return would be missing here."""
    with tracker:
        return 1


def tune() -> None:
    """Every option, and that they are values."""
    options = Options(
        capture="reference",
        grad_norm="inline",
        grad_hold_limit_gb=0.5,
        ring_capacity=1024,
        full_wait_s=0,
        flush_interval_s=0.1,
        wait_for_delivery="finish",
        checkpoint_wait_s=0,
        hang_timeout_s=30,
        stop_signals=("SIGUSR1",),
        stop_before_end_s=None,
        find_pauses=False,
        flops_per_token=flops_per_token(10, layers=1, heads=1, head_dim=1, sequence_length=1),
        peak_flops=1e12,
        finish_timeout_s=10,
        upload_timeout_s=10,
        online_timeout_s=5,
        backends=("wandb", "tensorboard"),
        directory="/scratch",
        delivery="thread",
        console=False,
        log_rank=1,
        ranks="all",
        share_run_id=True,
        nodes="all",
        nodes_interval_s=60,
        overhead_budget=0.01,
        watch_nonfinite=True,
        flight_recorder=100,
        layer_norms_every=100,
        alerts=["eval/loss > 5", "spike=off"],
        media_limit_mb=64,
    )
    Options(flops_per_sample=1e9, peak_flops="fp8")
    assert_type(dataclasses.replace(options, log_rank=0), Options)
    assert_type(options.backends, tuple[str, ...] | str | None)
    assert_type(options.console, bool | None)
    assert_type(options.overhead_budget, float | None)


def count(stats: Stats) -> None:
    """Every figure."""
    counts = (
        stats.rows_written,
        stats.rows_delivered,
        stats.dropped,
        stats.media_dropped,
        stats.refused,
        stats.stale,
        stats.out_of_order,
        stats.journal_errors,
        stats.worker_errors,
        stats.cut_off,
        stats.failed_calls,
        stats.late_calls,
        stats.ring_high_water,
        stats.delivery_lag_rows,
        stats.effective_interval,
    )
    assert_type(sum(counts), int)
    assert_type(stats.reasons["ring_full"], int)
    assert_type(stats.call_us_p50 + stats.call_us_p99 + stats.worker_cpu_pct, float)


def measure() -> None:
    """The functions that need no tracker."""
    assert_type(compute_grad_norm(model), float)
    assert_type(compute_grad_norm(model.parameters()), float)
    assert_type(compute_grad_norm(model.weight), float)
    assert_type(get_learning_rate(optimizer), float)
    assert_type(get_amp_scale(scaler), float | None)
    assert_type(get_amp_scale(None), float | None)
    assert_type(get_all_gpu_stats(), dict[str, float])
    assert_type(get_metadata(), dict[str, Any])
    assert_type(get_metadata(config=Config()), dict[str, Any])
    assert_type(is_main_process(), bool)
    assert_type(is_main_process(log_rank=1), bool)
    assert_type(set_seeds(1, deterministic=True, rank_offset=True), int)
    assert_type(fasttrack.__version__, str)


def fail() -> None:
    """Errors are ours, and the standard ones too."""
    try:
        ExperimentTracker()
    except ConfigurationError as error:
        as_value_error: ValueError = error
        as_ours: FasttrackError = error
    except DirectoryError as error:
        as_os_error: OSError = error
        as_ours = error
    raise FasttrackError(str(as_value_error), str(as_os_error)) from as_ours


def test_of_somebodys() -> None:
    """`fasttrack.testing`."""
    with memory_tracker(config={"lr": 0.1}, log_interval=1) as tracker:
        assert_type(tracker, MemoryTracker)
        log(tracker)
    for row in tracker.rows:
        assert_type(row.step, int)
        assert_type(row.time_s, float)
        assert_type(row.values["loss/total"], float | int)
    assert_type(tracker.config, dict[str, Any])
    assert_type(tracker.exit_code, int | None)
    assert_type([artifact.files for artifact in tracker.artifacts], list[dict[str, bytes]])


def read_runs(directory: Path) -> None:
    """`fasttrack.runs` is a function, and where the library is."""
    assert_type(runs(), list[Run])
    assert_type(fasttrack.runs(directory), list[Run])
    run = open_run("latest", str(directory))
    assert_type(run, Run)
    assert_type(run.summary["loss/total"], float | int)
    assert_type(run.config, dict[str, Any])
    assert_type(run.history(["loss/*"], last=50), History)
    assert_type(run.history("loss/total").rows()[0].values, dict[str, float | int])
    assert_type(find_run("latest"), LocalRun)
