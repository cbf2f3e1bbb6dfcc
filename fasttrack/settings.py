"""What a run's settings are: arguments, then the environment, then defaults, resolved once.

The environment variables that W&B and fasttrack know are read here and nowhere else.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrack.context.config import as_config, config_refusal, encodable
from fasttrack.context.distributed import get_world_size, is_main_process
from fasttrack.context.job_runs import AUTO, JobRuns, current_job
from fasttrack.delivery.backends.registry import BACKENDS, MEMORY, NONE
from fasttrack.errors import ConfigurationError
from fasttrack.options import Options
from fasttrack.validation import (
    check_names,
    check_tags,
    require_choice,
    require_integer,
    require_run_id,
    require_strings,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_PROJECT = "vla-lego"
DEFAULT_BACKENDS = ("wandb",)
MODES = ("online", "offline", "disabled")
REQUIRED_TAGS = ("model", "dataset", "objective", "experiment_group")
"""The tags that whoever gives tags gives all of, by default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """One run's settings, each resolved and checked.

    What `records` is False for needs no run: there `run_id` is the one that was given, if any, and
    `name` and `config` are empty.
    """

    records: bool
    """Whether this process records: the right rank, and not disabled."""
    run_id: str | None
    """None only where nothing is recorded."""
    resumed: bool
    """Whether `run_id` was given, or found."""
    job_runs: JobRuns | None
    """Where to note the run, so that this job finds it when it starts again; None: nowhere."""
    mode: str
    """"online", "offline" or "disabled"."""
    project: str
    entity: str | None
    name: str | None
    """None only in a resumed run: it has one."""
    tags: dict[str, str]
    group: str | None
    notes: str | None
    config: dict[str, Any]
    """The user's configuration: plain, secrets redacted."""
    log_interval: int
    gpu_stats_interval: int
    backends: tuple[str, ...]
    """Names in the registry; empty: the journal only."""
    upload_models: bool
    """Whether checkpoints are uploaded that are not forced."""
    base_dir: Path
    """The parent of `wandb/`."""
    world_size: int
    began_s: float
    """Unix time."""
    options: Options


def resolve_settings(
    *,
    project: str | None,
    config: Any,
    tags: Mapping[str, str] | None,
    name: str | None,
    resume_id: str | None,
    mode: str | None,
    entity: str | None,
    enabled: bool,
    log_interval: int,
    gpu_stats_interval: int,
    group: str | None,
    notes: str | None,
    required_tags: Sequence[str] | None,
    options: Options | None,
) -> RunSettings:
    """Return the settings that `ExperimentTracker`'s arguments and the environment make.

    Checks everything on every rank, so that all stop where one does. Asks git for the commit of a
    run that is named here, up to half a second.

    Raises:
        ConfigurationError: an argument or environment variable is wrong.
    """
    options = Options() if options is None else options
    if not isinstance(options, Options):
        raise ConfigurationError(f"options must be fasttrack.Options, not {options!r}")
    chosen_mode = resolve_mode(mode, enabled)
    chosen_project = resolve_project(project)
    chosen_entity = resolve_entity(entity)
    backends = resolve_backends(options.backends)
    if MEMORY in backends and options.delivery != "thread":
        raise ConfigurationError(
            f"the backend {MEMORY!r} is this process's memory: use fasttrack.testing.memory_tracker"
        )
    upload_models = resolve_log_model()
    require_integer("log_interval", log_interval, least=1)
    require_integer("gpu_stats_interval", gpu_stats_interval, least=1)
    require_strings(name=name, entity=entity, group=group, notes=notes)
    plain_config = as_config({} if config is None else config)
    if plain_config is None:
        raise ConfigurationError(config_refusal(config))
    require_run_id("resume_id", resume_id)
    look_up = resume_id == AUTO
    resume_id = None if look_up else resume_id
    required, source = resolve_required_tags(required_tags, given=tags is not None)
    if chosen_mode == "disabled" or (resume_id is not None and tags is None):
        required = ()
    chosen_tags = {
        encodable(key): encodable(value)
        for key, value in check_tags(tags, required, source).items()
    }
    records = chosen_mode != "disabled" and is_main_process(options.log_rank)
    base_dir = resolve_base_dir(options.directory)
    run_id, now_s = resume_id, time.time()
    job_runs = None
    if records and look_up and (job := current_job()) is not None:
        job_runs = JobRuns(
            base_dir / "wandb" / "fasttrack",
            job,
            project=(chosen_project, chosen_entity),
            details=(group, name, chosen_tags),
        )
        resume_id = job_runs.find()
    if records:
        # Elsewhere neither is needed, nor the modules that are loaded for them.
        from fasttrack.context.naming import make_run_id, make_run_name
        from fasttrack.context.redaction import redact

        plain_config = redact(plain_config)
        run_id = resume_id or make_run_id()
        if name is None and resume_id is None:
            now = datetime.fromtimestamp(now_s)
            name = make_run_name(chosen_project, chosen_tags, now)
    return RunSettings(
        records=records,
        run_id=run_id,
        resumed=resume_id is not None,
        job_runs=job_runs,
        mode=chosen_mode,
        project=encodable(chosen_project),
        entity=_encodable(chosen_entity),
        name=_encodable(name),
        tags=chosen_tags,
        group=_encodable(group) if group is not None else chosen_tags.get("experiment_group"),
        notes=_encodable(notes),
        config=plain_config if records else {},
        log_interval=log_interval,
        gpu_stats_interval=gpu_stats_interval,
        backends=backends,
        upload_models=upload_models,
        base_dir=base_dir,
        world_size=get_world_size(),
        began_s=now_s,
        options=options,
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
    require_choice(source, chosen, MODES)
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


def resolve_backends(backends: Sequence[str] | None) -> tuple[str, ...]:
    """Return where to deliver to: argument > FASTTRACK_BACKENDS > W&B; empty for "none".

    Raises:
        ConfigurationError: a name is not known or stands twice, or others stand beside "none".
    """
    source = "Options.backends" if backends is not None else "FASTTRACK_BACKENDS"
    if backends is None:
        backends = _listed("FASTTRACK_BACKENDS") or DEFAULT_BACKENDS
    names = check_names(source, backends)
    known = (*BACKENDS, NONE)
    for name in names:
        if name not in known:
            raise ConfigurationError(f"{source}: no backend {name!r}; known are {', '.join(known)}")
    if not names or len(set(names)) < len(names):
        raise ConfigurationError(
            f"{source} must name each backend once, or {NONE!r} alone, not {names!r}"
        )
    if NONE in names:
        if len(names) > 1:
            raise ConfigurationError(f"{source}: {NONE!r} stands alone, not in {names!r}")
        return ()
    return names


def resolve_required_tags(
    required: Sequence[str] | None, *, given: bool
) -> tuple[tuple[str, ...], str]:
    """Return the tags that must be there, and the variable that says so, "" where none does.

    Argument > FASTTRACK_REQUIRED_TAGS > the four of `REQUIRED_TAGS` for whoever gives tags.

    Args:
        required: the argument; None where it was not given.
        given: whether tags were given.

    Raises:
        ConfigurationError: it is no sequence of names.
    """
    if required is not None:
        return check_names("required_tags", required), ""
    listed = _listed("FASTTRACK_REQUIRED_TAGS")
    if listed:
        return listed, "FASTTRACK_REQUIRED_TAGS"
    return (REQUIRED_TAGS if given else ()), ""


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


def resolve_base_dir(directory: str | None = None) -> Path:
    """Return the parent of `wandb/`: argument > WANDB_DIR > the working directory.

    Absolute, unless the working directory was deleted, where nothing can be written anyway.
    """
    base = Path(directory or os.environ.get("WANDB_DIR") or ".")
    try:
        return base.absolute()
    except FileNotFoundError:
        return base


def _listed(variable: str) -> tuple[str, ...]:
    """Return the names in a comma list; empty where the variable is not set."""
    names = (name.strip() for name in os.environ.get(variable, "").split(","))
    return tuple(name for name in names if name)


def _encodable(text: str | None) -> str | None:
    return None if text is None else encodable(text)
