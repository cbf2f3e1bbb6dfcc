"""The functions of the module, for the run that is open, and that run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fasttrack.wandb.config_object import Config
from fasttrack.wandb.said import say_once
from fasttrack.wandb.summary_object import Summary
from fasttrack.wandb.unknown import Inert

if TYPE_CHECKING:
    from fasttrack.wandb.run_object import Run


class _Current:
    """The run that the module's functions are for."""

    def __init__(self) -> None:
        """Begin without one."""
        self.run: Run | None = None
        self.all: list[Run] = []
        """Those that are open, the newest last."""

    @property
    def config(self) -> Config:
        """That of the run."""
        if self.run is None:
            _say_early("config")
            return Config()
        return self.run.config

    @property
    def summary(self) -> Summary:
        """That of the run."""
        if self.run is None:
            _say_early("summary")
            return Summary({}, lambda told: None)
        return self.run.summary

    def ended(self, run: Run) -> None:
        """Forget a run."""
        self.all = [each for each in self.all if each is not run]
        if self.run is run:
            self.run = None


CURRENT = _Current()


def _say_early(name: str) -> None:
    say_once(f"early:{name}", f"wandb.{name} outside of a run (before init, or after finish)")


def _run(name: str) -> Any:
    """Return the run, or something inert where there is none."""
    if CURRENT.run is None:
        _say_early(name)
        return Inert()
    return CURRENT.run


def log(data: Any, step: int | None = None, commit: bool | None = None, **further: Any) -> None:
    """Log to the run. See `Run.log`."""
    run = CURRENT.run
    if run is None:
        _say_early("log")
    else:
        run.log(data, step, commit)


def finish(exit_code: int | None = None, quiet: bool | None = None) -> None:
    """End the run, if one is open. See `Run.finish`."""
    if CURRENT.run is not None:
        CURRENT.run.finish(exit_code)


def teardown(exit_code: int | None = None) -> None:
    """End all runs."""
    for run in list(CURRENT.all):
        run.finish(exit_code)


def define_metric(*args: Any, **further: Any) -> Any:
    """Choose a metric's x axis and summary. See `Run.define_metric`."""
    return _run("define_metric").define_metric(*args, **further)


def watch(*args: Any, **further: Any) -> Any:
    """See `Run.watch`."""
    return _run("watch").watch(*args, **further)


def unwatch(*args: Any, **further: Any) -> Any:
    """See `Run.unwatch`."""
    return _run("unwatch").unwatch(*args, **further)


def alert(*args: Any, **further: Any) -> Any:
    """See `Run.alert`."""
    return _run("alert").alert(*args, **further)


def save(*args: Any, **further: Any) -> Any:
    """Keep files. See `Run.save`."""
    return _run("save").save(*args, **further)


def log_artifact(*args: Any, **further: Any) -> Any:
    """Keep an artifact. See `Run.log_artifact`."""
    return _run("log_artifact").log_artifact(*args, **further)


def log_model(*args: Any, **further: Any) -> Any:
    """Keep a model. See `Run.log_model`."""
    return _run("log_model").log_model(*args, **further)


def use_artifact(*args: Any, **further: Any) -> Any:
    """See `Run.use_artifact`."""
    return _run("use_artifact").use_artifact(*args, **further)


def mark_preempting() -> None:
    """See `Run.mark_preempting`."""
    _run("mark_preempting").mark_preempting()


def login(
    anonymous: Any = None,
    key: str | None = None,
    relogin: bool | None = None,
    host: str | None = None,
    **further: Any,
) -> bool:
    """Use an account, and a server, in this process and its children; nothing is written."""
    if key:
        os.environ["WANDB_API_KEY"] = key
    if host:
        os.environ["WANDB_BASE_URL"] = host
    return True


def setup(*args: Any, **further: Any) -> Any:
    """Do nothing: there is nothing to set up."""
    return Inert()


def require(*args: Any, **further: Any) -> None:
    """Do nothing."""
