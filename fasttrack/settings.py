"""What a run's settings are: arguments, then the environment, then defaults, resolved once.

The environment variables that W&B and fasttrack know are read here, those of alerts in their own
settings, and nowhere else.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrack.alerts.settings import resolve_alerts
from fasttrack.context.config import as_config, config_refusal, encodable, to_plain
from fasttrack.context.distributed import get_world_size, is_main_process
from fasttrack.delivery.backends.registry import BACKENDS, MEMORY, NONE, missing_package
from fasttrack.errors import ConfigurationError
from fasttrack.options import Options
from fasttrack.validation import (
    check_names,
    check_tags,
    require_choice,
    require_integer,
    require_run_id,
    require_strings,
    split_names,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fasttrack.alerts.settings import AlertSettings
    from fasttrack.context.job_runs import JobRuns

DEFAULT_PROJECT = "vla-lego"
DEFAULT_BACKENDS = ("wandb",)
MODES = ("online", "offline", "disabled")
AUTO_ID = "auto"
"""The `resume_id` that has the job's run looked up."""
_OLD_MODES = {"dryrun": "offline", "run": "online"}
_CONSOLES = ("auto", "off", "wrap", "redirect", "wrap_raw", "wrap_emu")
_TRUE = ("1", "true", "yes", "on")
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
    """Whether `run_id` was given, or found, so that the run may be there already."""
    job_runs: JobRuns | None
    """Where to note the run, so that this job finds it when it starts again; None: nowhere."""
    sweep_id: str | None
    """The W&B sweep that the run is a trial of; None: of none."""
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
    alerts: AlertSettings
    console: bool
    """Whether what the program prints becomes the run's console log."""
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
    sweep_id = resolve_sweep_id()
    if sweep_id is not None:  # the client files its rows there whatever it is told
        project = os.environ.get("WANDB_PROJECT") or project
        entity = os.environ.get("WANDB_ENTITY") or entity
    require_integer("log_interval", log_interval, least=1)
    require_integer("gpu_stats_interval", gpu_stats_interval, least=1)
    require_strings(name=name, entity=entity, group=group, notes=notes)
    given_id = None if resume_id == AUTO_ID else resume_id
    run_id = resolve_run_id(given_id, sweep_id)
    backends = _resolve_backends_of(options, used=chosen_mode != "disabled")
    needs_tags = chosen_mode != "disabled" and (given_id is None or tags is not None)
    settings = RunSettings(
        records=chosen_mode != "disabled" and is_main_process(options.log_rank),
        run_id=run_id,
        resumed=run_id is not None,
        job_runs=None,
        sweep_id=sweep_id,
        mode=chosen_mode,
        project=resolve_project(project),
        entity=resolve_entity(entity),
        name=name if name is not None else os.environ.get("WANDB_NAME") or None,
        tags=_resolve_tags(tags, required_tags, needed=needs_tags),
        group=group if group is not None else os.environ.get("WANDB_RUN_GROUP") or None,
        notes=notes if notes is not None else os.environ.get("WANDB_NOTES") or None,
        config=_resolve_config(config),
        log_interval=log_interval,
        gpu_stats_interval=gpu_stats_interval,
        backends=backends,
        alerts=resolve_alerts(options.alerts, backends, options.flush_interval_s),
        console=resolve_console(options.console),
        upload_models=resolve_log_model(),
        base_dir=resolve_base_dir(options.directory),
        world_size=get_world_size(),
        began_s=time.time(),
        options=options,
    )
    if not settings.records:
        return _presentable(replace(settings, config={}))
    from fasttrack.run_identity import identify, without_secrets  # other ranks need neither

    return _presentable(identify(without_secrets(settings), resume_id))


def _resolve_tags(
    tags: Mapping[str, str] | None, required_tags: Sequence[str] | None, *, needed: bool
) -> dict[str, str]:
    required, source = resolve_required_tags(required_tags, given=tags is not None)
    checked = check_tags(tags, required if needed else (), source)
    return {encodable(key): encodable(value) for key, value in checked.items()}


def _resolve_config(config: Any) -> dict[str, Any]:
    plain = as_config({} if config is None else config)
    if plain is None:
        raise ConfigurationError(config_refusal(config))
    return plain


def _resolve_backends_of(options: Options, *, used: bool) -> tuple[str, ...]:
    backends = resolve_backends(options.backends)
    for name in backends if used else ():
        if (package := missing_package(name)) is not None:
            raise ConfigurationError(
                f"the backend {name!r} needs {package}, which is not installed: "
                f"pip install 'fasttrack[{name}]'"
            )
    if MEMORY in backends and options.delivery != "thread":
        raise ConfigurationError(
            f"the backend {MEMORY!r} is this process's memory: use fasttrack.testing.memory_tracker"
        )
    return backends


def _presentable(settings: RunSettings) -> RunSettings:
    """Return the settings as they can be written, with the group that tags give."""
    group = _encodable(settings.group)
    return replace(
        settings,
        project=encodable(settings.project),
        entity=_encodable(settings.entity),
        name=_encodable(settings.name),
        group=settings.tags.get("experiment_group") if settings.group is None else group,
        notes=_encodable(settings.notes),
    )


def resolve_mode(mode: str | None, enabled: bool) -> str:
    """Return "online", "offline" or "disabled".

    `enabled` > argument > WANDB_DISABLED > WANDB_MODE > "online". In the
    variable, "dryrun" and "run" are the client's old words for offline and online.

    Raises:
        ConfigurationError: the mode is none of these.
    """
    if not enabled:
        return "disabled"
    if mode is not None:
        require_choice("mode", mode, MODES)
        return mode
    if os.environ.get("WANDB_DISABLED", "").strip().lower() in _TRUE:
        return "disabled"
    chosen = os.environ.get("WANDB_MODE") or "online"
    chosen = _OLD_MODES.get(chosen, chosen)
    require_choice("WANDB_MODE", chosen, MODES)
    return chosen


def resolve_console(console: bool | None) -> bool:
    """Return whether to capture what is printed: argument > WANDB_CONSOLE, unless "off" > True.

    Raises:
        ConfigurationError: the variable holds no word that the client knows.
    """
    if console is not None:
        return console
    chosen = os.environ.get("WANDB_CONSOLE") or "auto"
    require_choice("WANDB_CONSOLE", chosen, _CONSOLES)
    return chosen != "off"


def resolve_sweep_id() -> str | None:
    """Return the sweep that this process is a trial of; None outside one.

    An agent gives its trials WANDB_SWEEP_ID and WANDB_RUN_ID; the first alone makes no trial.
    """
    sweep_id = os.environ.get("WANDB_SWEEP_ID")
    return sweep_id if sweep_id and os.environ.get("WANDB_RUN_ID") else None


def resolve_run_id(resume_id: str | None, sweep_id: str | None) -> str | None:
    """Return the run's id where one is given: argument > WANDB_RUN_ID > None, a new one.

    Raises:
        ConfigurationError: it is no run id, or another than that of the sweep's trial.
    """
    require_run_id("resume_id", resume_id)
    given = os.environ.get("WANDB_RUN_ID") or None
    require_run_id("WANDB_RUN_ID", given)
    if sweep_id is not None and resume_id is not None and resume_id != given:
        raise ConfigurationError(
            f"resume_id {resume_id!r} is not the run of this sweep's trial, {given!r}, under which "
            "W&B files all that it logs; leave resume_id out, or unset WANDB_SWEEP_ID"
        )
    return resume_id or given


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


def resolve_lightning() -> bool:
    """Return whether FASTTRACK_LIGHTNING asks for a callback in each of Lightning's Trainers."""
    return os.environ.get("FASTTRACK_LIGHTNING", "").strip().lower() in _TRUE


def resolve_base_dir(directory: str | None = None) -> Path:
    """Return the parent of `wandb/`: argument > WANDB_DIR > the working directory.

    Absolute, unless the working directory was deleted, where nothing can be written anyway.
    """
    base = Path(directory or os.environ.get("WANDB_DIR") or ".")
    try:
        return base.absolute()
    except FileNotFoundError:
        return base


def resolve_cache_dir() -> Path:
    """Return where we keep what can be made again: under XDG_CACHE_HOME, else ~/.cache."""
    parent = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(parent, "fasttrack")


def resolve_sweep_parameters() -> dict[str, Any]:
    """Return what the sweep's agent has chosen; {} where it has left no file, which is said."""
    from fasttrack.context.sweep import read_parameters
    from fasttrack.notices import say

    path = os.environ.get("WANDB_SWEEP_PARAM_PATH")
    if not path:
        return {}
    try:
        return to_plain(read_parameters(path))  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        say(f"the sweep's parameters (WANDB_SWEEP_PARAM_PATH) are not in the run's config: {error}")
        return {}


def _listed(variable: str) -> tuple[str, ...]:
    """Return the names in a comma list; empty where the variable is not set."""
    return split_names(os.environ.get(variable, ""))


def _encodable(text: str | None) -> str | None:
    return None if text is None else encodable(text)
