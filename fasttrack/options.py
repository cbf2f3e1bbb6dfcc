"""What a user may tune beyond the tracker's arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fasttrack.alerts.settings import check_alerts
from fasttrack.errors import ConfigurationError
from fasttrack.validation import (
    check_names,
    require_choice,
    require_flops,
    require_integer,
    require_number,
    split_names,
)

_PEAKS = ("auto", "bf16", "fp16", "tf32", "fp8")
_MOST_KEPT_STEPS = 100_000
_STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What a user may tune, validated at construction.

    Raises:
        ConfigurationError: a value is out of range; the message names it.
    """

    capture: str = "snapshot"
    """How a tensor is kept until the worker reads it: "snapshot" copies it (asynchronously on an
    accelerator), which is always right; "reference" keeps it as it is and drops it as stale if it
    was changed in place meanwhile."""

    grad_norm: str = "auto"
    """Where `train/grad_norm` is computed: "worker"; "inline", on the caller's thread; "auto", in
    the worker unless that would hold more than `grad_hold_limit_gb`, or the gradients are a few MiB
    on the CPU; or "off". Gradients that change in place behind the call go inline in any case, once
    that is seen: "worker" loses one norm to seeing it, "auto" none."""

    grad_hold_limit_gb: float = 1.0
    """GiB of gradients that the worker is let hold, those of all steps that the device has not
    computed yet together; more could exhaust its memory. What is above is computed inline. "worker"
    holds those of one step whatever they take."""

    ring_capacity: int = 65_536
    """Records between the training loop and the worker; a power of two. Each slot is 8 bytes."""

    full_wait_s: float = 1.0
    """Seconds that a call may wait when the ring is full, before its record is dropped and counted.
    A burst loses nothing; a worker that hangs stops training once, for this long."""

    media_limit_mb: float = 256.0
    """MiB of pictures and other media that may wait for the device and the disk, copies on devices
    included; what is above is dropped and counted."""

    flush_interval_s: float = 0.2
    """Seconds between the worker's rounds: the longest that a row stays in memory, beside the
    device's lag. Longer intervals cost more, not less: memory that went cold is slow."""

    wait_for_delivery: str = "auto"
    """Who waits until delivery has proven that it has all: "finish", `finish()` itself; "exit", the
    process when it ends, for all its runs together, so that `finish()` returns as soon as the
    journal is closed; "never", nobody: delivery, once it is up, does the rest alone, if what runs
    the job lets it outlive the trainer. What is not proven is said. "auto" is "exit" for runs in
    offline mode, where nothing can be out of reach, and "finish" online and where somebody
    types."""

    finish_timeout_s: float = 60.0
    """Seconds from `finish()` on that are waited for everything to be delivered."""

    upload_timeout_s: float = 3600.0
    """Seconds beyond `finish_timeout_s` that are waited for artifacts being uploaded."""

    checkpoint_wait_s: float = 120.0
    """Seconds that `log_checkpoint` may wait for a copy of the files, which takes about as long as
    saving them did, less where the file system clones (XFS, Btrfs, NFS 4.2). What is not copied by
    then is copied while training goes on, and lost, which is said, if it is overwritten in place
    before. 0: never wait; right for checkpoints that each have a new name."""

    online_timeout_s: float = 30.0
    """Seconds that delivery tries to reach W&B before it falls back to offline."""

    hang_timeout_s: float = 60.0
    """Seconds after which a call into W&B's client that should take none, and has not come back,
    counts as hung: the client is started anew. What may take its time (uploads, finishing) has that
    on top. A delivery process that gives no sign of life for twice as long is replaced."""

    backends: tuple[str, ...] | str | None = None
    """Where rows are delivered to: any of "wandb", "tensorboard", "mlflow" and "trackio", or "none"
    alone, which keeps the journal only; a string names one, or several with commas, and is kept as
    a tuple; None: FASTTRACK_BACKENDS, then "wandb"."""

    directory: str | None = None
    """Parent of the `wandb/` folder that run files go to; None: WANDB_DIR, then the working
    directory."""

    delivery: str = "process"
    """Where delivery runs: "process", a process of its own that costs training nothing, or
    "thread", for notebooks and for code that needs `wandb.run` in this process."""

    console: bool | None = None
    """Whether what the program prints becomes the run's console log, secrets redacted; None:
    unless WANDB_CONSOLE is "off"."""

    log_rank: int = 0
    """The rank that logs. Move it where the loss lives elsewhere (pipeline parallelism)."""

    ranks: str = "main"
    """Whose training the run tells of: "main", that of the rank that records; "all", that of all
    ranks of the job too, as `ranks/` metrics (docs/ranks.md). Give it on every rank, and make the
    tracker after `init_process_group`, or under torchrun or srun. Logging calls that have DTensors
    or a model of them then wait for the other ranks' and reduce them (docs/sharded.md)."""

    share_run_id: bool = False
    """Whether `get_run_id()` returns the recording rank's id on every rank, through the key-value
    store of torch.distributed, without a collective. All ranks must then construct such trackers
    in the same order, after `init_process_group`; rank 0, which names the group, among them."""

    nodes: str = "main"
    """Whose hardware is sampled: "main", the GPU that the recording rank trains on; "all", also all
    GPUs and the host of each node, by one thread of one process there (docs/nodes.md)."""

    nodes_interval_s: float = 15.0
    """Seconds between two samples of a node where `nodes` is "all". With more than 15 nodes it
    grows in proportion, to 64 s with 64. As the recording rank has it, so it is on all."""

    stop_signals: tuple[str, ...] = ("SIGTERM", "SIGUSR1")
    """The signals that make `should_stop()` answer True, from its first call on. A handler of the
    program's own is never replaced."""

    stop_before_end_s: float | None = 120.0
    """How many seconds before the time limit of its Slurm job `should_stop()` answers True; at most
    a tenth of the job's time. None: the limit is not looked at."""

    overhead_budget: float | None = None
    """The share of the step time that the logging calls may take, such as 0.01; None: any. Where
    they take more over two seconds, fewer steps are logged: the effective log interval grows, to at
    most 100 times `log_interval`, and shrinks again when there is room. That is said once and
    recorded as `fasttrack/effective_interval`. `log_metrics` is never left out."""

    find_pauses: bool = True
    """Whether a step that took more than half a second and ten times as long as the last ones
    (their median) holds a pause, an evaluation or a checkpoint: what it took beyond them is
    `perf/pause_s`, and not in the throughput. Where more than one step in nine is that long, fifty
    times it must be. False: only what `tracker.pause()` marks."""

    flops_per_token: float | None = None
    """Floating-point operations, forward and backward, that the model takes for a token
    (`fasttrack.flops_per_token`). With it, and `tokens=` at every call of `log_training_step`, rows
    have `perf/tflops` (10**12 a second on one device) and `perf/mfu` (percent of `peak_flops`)."""

    flops_per_sample: float | None = None
    """In place of `flops_per_token`: for a sample; the calls then need `batch_size`."""

    peak_flops: float | str = "auto"
    """What one device can do at best, in FLOP/s; or "bf16", "fp16", "tf32" or "fp8": the dense peak
    of that type in its data sheet, if it is known here (docs/throughput.md). "auto" is "bf16",
    "fp16" on a GPU that has no other."""

    watch_nonfinite: bool = False
    """Whether the loss of every step is looked at, not of logged ones only, so that the first that
    is NaN or infinite is known exactly: it becomes a row of its own, with
    `train/first_nonfinite_step`. Never waits for a device; a step that is not logged costs more
    (docs/flight-recorder.md), which is why it is off."""

    layer_norms_every: int | None = None
    """Every how many steps, with the first that is logged, the norms of each layer's gradients and
    parameters are (`layers/grad_norm/<name>`, `layers/param_norm/<name>`), where `model` is passed
    (docs/flight-recorder.md). Implies `watch_nonfinite`, and names the layers that went bad. None:
    never."""

    flight_recorder: int = 0
    """How many of the last steps are kept in memory at full rate, and written to a file in the
    run's directory when a loss becomes NaN, when an exception (out of memory, say) or SIGTERM ends
    the run, or when it fails (docs/flight-recorder.md). Implies `watch_nonfinite`. 0: none."""

    alerts: Mapping[str, Any] | Sequence[str] | str | bool | None = field(default=None, repr=False)
    """What is worth an alert, and who is told (docs/alerts.md): a mapping with the keys
    `non_finite`, `spike`, `crash`, `hung`, `stall`, `rules`, `to`, `webhook`, `command`; or items
    such as "stall=600" and "eval/loss > 5"; False: none. What it leaves out is as
    FASTTRACK_ALERTS says, then fasttrack.toml, then the defaults, which tell stderr only. All of it
    happens in the delivery process."""

    def __post_init__(self) -> None:
        """Validate."""
        check_alerts("Options.alerts", self.alerts)
        require_choice("Options.capture", self.capture, ("snapshot", "reference"))
        require_choice("Options.grad_norm", self.grad_norm, ("auto", "worker", "inline", "off"))
        require_choice("Options.nodes", self.nodes, ("main", "all"))
        require_number("Options.nodes_interval_s", self.nodes_interval_s, least=0.1)
        require_choice("Options.delivery", self.delivery, ("process", "thread"))
        require_choice("Options.ranks", self.ranks, ("main", "all"))
        waits = ("auto", "finish", "exit", "never")
        require_choice("Options.wait_for_delivery", self.wait_for_delivery, waits)
        if self.wait_for_delivery == "never" and self.delivery == "thread":
            raise ConfigurationError(
                "Options.wait_for_delivery='never' needs a delivery that outlives the process; "
                "delivery='thread' does not"
            )
        if self.directory is not None and not isinstance(self.directory, str):
            raise ConfigurationError(
                f"Options.directory must be a string or None, not {self.directory!r}"
            )
        for name in (
            "grad_hold_limit_gb",
            "full_wait_s",
            "media_limit_mb",
            "finish_timeout_s",
            "upload_timeout_s",
            "checkpoint_wait_s",
            "online_timeout_s",
        ):
            require_number(f"Options.{name}", getattr(self, name), least=0)
        require_number("Options.hang_timeout_s", self.hang_timeout_s, least=1)
        if self.overhead_budget is not None:
            require_number("Options.overhead_budget", self.overhead_budget, least=0)
            if not 0 < self.overhead_budget < 1:
                raise ConfigurationError(
                    "Options.overhead_budget must be a share of the step time, above 0 and below 1 "
                    f"(0.01 is one percent), or None, not {self.overhead_budget!r}"
                )
        require_number("Options.flush_interval_s", self.flush_interval_s, least=0.001)
        require_choice("Options.console", self.console, (True, False, None))
        require_choice("Options.find_pauses", self.find_pauses, (True, False))
        require_choice("Options.watch_nonfinite", self.watch_nonfinite, (True, False))
        if self.layer_norms_every is not None:
            require_integer("Options.layer_norms_every", self.layer_norms_every, least=1)
        require_integer("Options.flight_recorder", self.flight_recorder, least=0)
        if self.flight_recorder > _MOST_KEPT_STEPS:
            raise ConfigurationError(
                f"Options.flight_recorder must be at most {_MOST_KEPT_STEPS} steps, which are kept "
                f"in memory, not {self.flight_recorder}"
            )
        require_choice("Options.share_run_id", self.share_run_id, (True, False))
        _check_flops(self)
        if self.stop_before_end_s is not None:
            require_number("Options.stop_before_end_s", self.stop_before_end_s, least=0)
        names = check_names("Options.stop_signals", self.stop_signals)
        object.__setattr__(self, "stop_signals", names)
        for name in names:
            require_choice("Options.stop_signals", name, _STOP_SIGNALS)
        if self.backends is not None:
            given: Any = self.backends
            if isinstance(given, str):  # as in FASTTRACK_BACKENDS
                given = split_names(given)
            object.__setattr__(self, "backends", check_names("Options.backends", given))
        require_integer("Options.log_rank", self.log_rank, least=0)
        require_integer("Options.ring_capacity", self.ring_capacity, least=2)
        if self.ring_capacity & (self.ring_capacity - 1):
            raise ConfigurationError(
                f"Options.ring_capacity must be a power of two, not {self.ring_capacity}; "
                f"take {1 << self.ring_capacity.bit_length()}"
            )


def _check_flops(options: Options) -> None:
    for name in ("flops_per_token", "flops_per_sample"):
        if getattr(options, name) is not None:
            require_flops(f"Options.{name}", getattr(options, name))
    if options.flops_per_token is not None and options.flops_per_sample is not None:
        raise ConfigurationError(
            "Options.flops_per_token and Options.flops_per_sample say the same; pass one of them"
        )
    if isinstance(options.peak_flops, str):
        require_choice("Options.peak_flops", options.peak_flops, _PEAKS)
    else:
        require_flops("Options.peak_flops", options.peak_flops)
