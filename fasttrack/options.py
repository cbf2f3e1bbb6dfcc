"""The tracker's settings. The W&B environment variables are read here and nowhere else."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasttrack.errors import ConfigurationError

DEFAULT_PROJECT = "vla-lego"
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_TAG_LIMIT = 64  # characters; W&B's
MODES = ("online", "offline", "disabled")
_LARGEST = 1_000_000  # of any number here: 11 days in seconds


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
    the worker unless the gradients exceed `grad_hold_limit_gb`, or are a few MiB on the CPU; or
    "off"."""

    grad_hold_limit_gb: float = 1.0
    """GiB of gradients that "auto" lets the worker hold; more could exhaust the device's memory."""

    ring_capacity: int = 65_536
    """Records between the training loop and the worker; a power of two. Each slot is 8 bytes."""

    full_wait_s: float = 1.0
    """Seconds that a call may wait when the ring is full, before its record is dropped and counted.
    A burst loses nothing; a worker that hangs stops training once, for this long."""

    flush_interval_s: float = 0.2
    """Seconds between the worker's rounds: the longest that a row stays in memory, beside the
    device's lag. Longer intervals cost more, not less: memory that went cold is slow."""

    finish_timeout_s: float = 60.0
    """Seconds that `finish()` waits for everything to be delivered."""

    upload_timeout_s: float = 3600.0
    """Seconds beyond `finish_timeout_s` that `finish()` waits for artifacts being uploaded."""

    online_timeout_s: float = 30.0
    """Seconds that delivery tries to reach W&B before it falls back to offline."""

    delivery: str = "process"
    """Where wandb runs: "process", a process of its own that costs training nothing, or "thread",
    for notebooks and for code that needs `wandb.run` in this process."""

    console: bool = True
    """Whether what the program prints becomes the run's console log."""

    log_rank: int = 0
    """The rank that logs. Move it where the loss lives elsewhere (pipeline parallelism)."""

    overhead_budget: float | None = None
    """The share of the step time that the logging calls may take, such as 0.01; None: any. Where
    they take more over two seconds, fewer steps are logged: the effective log interval grows, to at
    most 100 times `log_interval`, and shrinks again when there is room. That is said once and
    recorded as `fasttrack/effective_interval`. `log_metrics` is never left out."""

    def __post_init__(self) -> None:
        """Validate."""
        _require_choice("Options.capture", self.capture, ("snapshot", "reference"))
        _require_choice("Options.grad_norm", self.grad_norm, ("auto", "worker", "inline", "off"))
        _require_choice("Options.delivery", self.delivery, ("process", "thread"))
        for name in (
            "grad_hold_limit_gb",
            "full_wait_s",
            "finish_timeout_s",
            "upload_timeout_s",
            "online_timeout_s",
        ):
            require_number(f"Options.{name}", getattr(self, name), least=0)
        if self.overhead_budget is not None:
            require_number("Options.overhead_budget", self.overhead_budget, least=0)
            if not 0 < self.overhead_budget < 1:
                raise ConfigurationError(
                    "Options.overhead_budget must be a share of the step time, above 0 and below 1 "
                    f"(0.01 is one percent), or None, not {self.overhead_budget!r}"
                )
        require_number("Options.flush_interval_s", self.flush_interval_s, least=0.001)
        _require_choice("Options.console", self.console, (True, False))
        require_integer("Options.log_rank", self.log_rank, least=0)
        require_integer("Options.ring_capacity", self.ring_capacity, least=2)
        if self.ring_capacity & (self.ring_capacity - 1):
            raise ConfigurationError(
                f"Options.ring_capacity must be a power of two, not {self.ring_capacity}; "
                f"take {1 << self.ring_capacity.bit_length()}"
            )


def require_integer(name: str, value: Any, *, least: int) -> None:
    """Raise ConfigurationError unless `value` is an int of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name} must be an integer of at least {least}, not {value!r}")


def require_number(name: str, value: Any, *, least: float) -> None:
    """Raise ConfigurationError unless `value` is a number from `least` to a million."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not least <= value <= _LARGEST
    ):
        raise ConfigurationError(
            f"{name} must be a number from {least} to {_LARGEST}, not {value!r}"
        )


def _require_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        known = ", ".join(map(str, choices))
        raise ConfigurationError(f"{name} must be one of {known}, not {value!r}")


def require_strings(**values: Any) -> None:
    """Raise ConfigurationError unless each of `values` is a string or None."""
    for argument, value in values.items():
        if value is not None and not isinstance(value, str):
            raise ConfigurationError(f"{argument} must be a string, not {value!r}")


def require_mapping(argument: str, value: Any) -> None:
    """Raise ConfigurationError unless `value` is a mapping or None."""
    if value is not None and not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{argument} must be a mapping such as a dict, not {type(value).__name__}"
        )


def check_tags(tags: Any, required: Sequence[str]) -> dict[str, str]:
    """Return `tags` as strings.

    Raises:
        ConfigurationError: they are no mapping to short strings, or lack some of `required`; all
            that are missing are named.
    """
    if isinstance(required, str):
        raise ConfigurationError(f"required_tags must be a sequence of names, not {required!r}")
    require_mapping("tags", tags)
    checked: dict[str, str] = {}
    for key, value in (tags or {}).items():
        if not isinstance(key, str) or not isinstance(value, (str, int, float)) or value == "":
            raise ConfigurationError(
                f"tags must map strings to non-empty strings, not {key!r} to {value!r}"
            )
        if len(f"{key}:{value}") > _TAG_LIMIT:
            raise ConfigurationError(
                f"tag {f'{key}:{value}'!r} is longer than W&B's {_TAG_LIMIT} characters"
            )
        checked[key] = str(value)
    missing = [key for key in required if key not in checked]
    if missing:
        raise ConfigurationError(
            f"tags lacks {', '.join(missing)}; pass them, e.g. "
            f"tags={{{', '.join(f'{key!r}: ...' for key in missing)}}}, or other required_tags"
        )
    return checked


def require_run_id(argument: str, value: Any) -> None:
    """Raise ConfigurationError unless `value` is None or can name a run and its directory."""
    if value is not None and not (isinstance(value, str) and _RUN_ID.fullmatch(value)):
        raise ConfigurationError(
            f"{argument} {value!r} is no run id (letters, digits, '_', '-' and '.' only); "
            "pass what get_run_id() returned"
        )


def resolve_mode(mode: str | None, enabled: bool) -> str:
    """Return "online", "offline" or "disabled": `enabled` > argument > WANDB_MODE > "online".

    Raises:
        ConfigurationError: the mode is none of these.
    """
    if not enabled:
        return "disabled"
    source = "mode" if mode is not None else "WANDB_MODE"
    chosen = mode if mode is not None else os.environ.get("WANDB_MODE") or "online"
    _require_choice(source, chosen, MODES)
    return chosen


def resolve_project(project: str | None) -> str:
    """Return the W&B project: argument > WANDB_PROJECT > "vla-lego".

    Raises:
        ConfigurationError: W&B would refuse the name.
    """
    source = "project" if project is not None else "WANDB_PROJECT"
    chosen = project if project is not None else os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT
    if not isinstance(chosen, str) or not chosen.strip():
        raise ConfigurationError(f"{source} must be a non-empty string, not {chosen!r}")
    bad = sorted(set(chosen) & set("/\\#?%:"))
    if bad or len(chosen) > 128:
        fault = f"holds {' '.join(bad)}" if bad else f"has {len(chosen)} characters"
        raise ConfigurationError(
            f"{source} {chosen[:60]!r} {fault}; W&B takes 128 characters at most, no / \\ # ? % :"
        )
    return chosen


def resolve_entity(entity: str | None) -> str | None:
    """Return the W&B entity: argument > WANDB_ENTITY > the account's default (None)."""
    return entity if entity is not None else os.environ.get("WANDB_ENTITY") or None


def resolve_log_model() -> bool:
    """Return whether WANDB_LOG_MODEL asks for checkpoints to be uploaded; by default not.

    "1" and "true" do, and so do "end" and "checkpoint", which Hugging Face's trainer knows.

    Raises:
        ConfigurationError: it is something else than these, "0", "false" or nothing.
    """
    value = os.environ.get("WANDB_LOG_MODEL", "").strip().lower()
    if value not in ("", "0", "false", "1", "true", "end", "checkpoint"):
        raise ConfigurationError(f"WANDB_LOG_MODEL must be 0 or 1, not {value!r}")
    return value not in ("", "0", "false")


def check_aliases(aliases: Any) -> list[str]:
    """Return artifact aliases as a list.

    Raises:
        ConfigurationError: they are not a sequence of strings that W&B takes.
    """
    if isinstance(aliases, str) or not isinstance(aliases, Sequence):
        raise ConfigurationError(f"aliases must be a list of strings, not {aliases!r}")
    for alias in aliases:
        if not isinstance(alias, str) or not alias or set(alias) & set("/:"):
            raise ConfigurationError(f"alias {alias!r} must be a string without '/' and ':'")
    return list(aliases)


def resolve_base_dir() -> Path:
    """Return the parent of `wandb/`, absolute: WANDB_DIR > the working directory."""
    return Path(os.environ.get("WANDB_DIR") or ".").absolute()
