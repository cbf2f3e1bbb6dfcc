"""`wandb.init`: its arguments, as a tracker's."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from fasttrack.errors import ConfigurationError
from fasttrack.options import Options
from fasttrack.settings import (
    AUTO_ID,
    resolve_mode,
    resolve_sweep_id,
    resolve_sweep_parameters,
)
from fasttrack.tracker import ExperimentTracker
from fasttrack.wandb.calls import CURRENT
from fasttrack.wandb.config_object import as_items
from fasttrack.wandb.run_object import Run
from fasttrack.wandb.said import say_once

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROJECT = "uncategorized"  # the client's own
_SETTINGS = {  # that mean what an argument of `init` does
    "entity": "entity",
    "project": "project",
    "run_id": "id",
    "run_name": "name",
    "run_notes": "notes",
    "run_tags": "tags",
    "run_group": "group",
    "run_job_type": "job_type",
    "root_dir": "dir",
    "mode": "mode",
    "reinit": "reinit",
    "resume": "resume",
}
_CLIENTS_OWN = ("start_method", "init_timeout", "silent", "quiet", "show_info", "show_warnings")
_NEW = (True, "finish_previous")


class Settings:
    """Settings of W&B's client: those that `init` has too count, others are accepted."""

    def __init__(self, **settings: Any) -> None:
        """Keep them."""
        vars(self).update(settings)


def init(
    entity: str | None = None,
    project: str | None = None,
    dir: Any = None,
    id: str | None = None,
    name: str | None = None,
    notes: str | None = None,
    tags: Sequence[str] | None = None,
    config: Any = None,
    config_exclude_keys: Sequence[str] | None = None,
    config_include_keys: Sequence[str] | None = None,
    allow_val_change: bool | None = None,
    group: str | None = None,
    job_type: str | None = None,
    mode: str | None = None,
    force: bool | None = None,
    reinit: Any = None,
    resume: Any = None,
    resume_from: str | None = None,
    fork_from: str | None = None,
    save_code: bool | None = None,
    tensorboard: bool | None = None,
    sync_tensorboard: bool | None = None,
    monitor_gym: bool | None = None,
    settings: Any = None,
    **further: Any,
) -> Run:
    """Begin a run, or return the open one; `reinit` says which, as in W&B's client.

    Never waits for the network. A run whose `id` is given goes on where it was.

    Raises:
        ConfigurationError: an argument or environment variable is wrong.
        DirectoryError: the run's directory cannot be made or written.
    """
    told: dict[str, Any] = {
        "entity": entity,
        "project": project,
        "dir": dir,
        "id": id,
        "name": name,
        "notes": notes,
        "tags": tags,
        "group": group,
        "job_type": job_type,
        "mode": mode,
        "reinit": reinit,
        "resume": resume,
    }
    console = _add_settings(told, settings)
    not_kept = {
        "resume_from": resume_from,
        "fork_from": fork_from,
        "sync_tensorboard": sync_tensorboard or tensorboard,
        "monitor_gym": monitor_gym,
        "save_code": save_code,
        **further,
    }
    for argument, value in not_kept.items():
        if value:
            say_once(f"init({argument}=)", f"init: {argument}= is not known here; ignored")
    open_run = _meet_open_runs(told["reinit"])
    if open_run is not None:
        return open_run
    items = _items(config)
    if config_include_keys:
        items = {key: value for key, value in items.items() if key in config_include_keys}
    for key in config_exclude_keys or ():
        items.pop(key, None)
    if told["mode"] == "shared":
        say_once("shared", "init: mode='shared' is not known here; this process has its own run")
        told["mode"] = None
    run = _begin(told, items, console)
    CURRENT.all.append(run)
    if told["reinit"] != "create_new":
        CURRENT.run = run
    return run


def _add_settings(told: dict[str, Any], settings: Any) -> bool | None:
    """Take over what settings say where no argument does; return whether to capture output."""
    given = {} if settings is None else settings if isinstance(settings, dict) else vars(settings)
    console = None
    for name, value in given.items():
        if name in _SETTINGS:
            argument = _SETTINGS[name]
            if told[argument] is None:
                told[argument] = value
        elif name == "console":
            console = False if value == "off" else None
        elif name not in _CLIENTS_OWN and not name.startswith(("_", "x_")):
            say_once(f"Settings({name}=)", f"init: the setting {name} is not known here; ignored")
    return console


def _meet_open_runs(reinit: Any) -> Run | None:
    """Return the open run that `init` is to return; None where a new one is to begin."""
    if reinit in (None, "default"):
        notebook = "ipykernel" in sys.modules
        reinit = "finish_previous" if notebook else "return_previous"
    if reinit in _NEW:
        for run in list(CURRENT.all):
            run.finish()
    elif reinit != "create_new" and CURRENT.all:
        return CURRENT.all[-1]
    return None


def _begin(told: dict[str, Any], config: dict[str, Any], console: bool | None) -> Run:
    resume_id = told["id"]
    if resume_id is None and told["resume"] in (True, "auto"):
        resume_id = AUTO_ID
    project = told["project"] or os.environ.get("WANDB_PROJECT") or _PROJECT
    job_type = told["job_type"] or os.environ.get("WANDB_JOB_TYPE")
    if job_type:
        say_once("job_type", "init: job_type stands in the run's configuration")
        config = {**config, "job_type": str(job_type)}
    tracker = ExperimentTracker(
        project=project,
        config=config,
        name=told["name"],
        resume_id=resume_id,
        mode=told["mode"],
        entity=told["entity"],
        group=told["group"],
        notes=told["notes"],
        required_tags=(),
        options=Options(
            directory=None if told["dir"] is None else os.fspath(told["dir"]), console=console
        ),
    )
    if resolve_sweep_id() is not None:  # its parameters are the run's, whatever the script says
        config = {**config, **resolve_sweep_parameters()}
    run = Run(
        tracker,
        config=config,
        told={
            "project": project,
            "entity": told["entity"] or os.environ.get("WANDB_ENTITY"),
            "name": told["name"],
            "notes": told["notes"],
            "group": told["group"] or os.environ.get("WANDB_RUN_GROUP"),
            "job_type": job_type,
            "mode": resolve_mode(told["mode"], enabled=True),
        },
        on_finish=CURRENT.ended,
    )
    tags = told["tags"]
    if tags is None:
        tags = [tag.strip() for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag.strip()]
    if tags:
        run.tags = tags
    return run


def _items(config: Any) -> dict[str, Any]:
    try:
        return {} if config is None else as_items(config)
    except (TypeError, ValueError, OSError) as error:
        raise ConfigurationError(f"config cannot be read: {error}") from error
