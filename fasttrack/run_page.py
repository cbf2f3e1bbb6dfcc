"""How a run is to be shown: what of it becomes known while it goes on. For adapters, mostly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fasttrack.errors import ConfigurationError
from fasttrack.media.calls import MediaCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fasttrack.engine import Engine
    from fasttrack.journal.entries import Page
    from fasttrack.quick_calls import Logger


class RunPage(MediaCalls):
    """The calls of a tracker that change how its run is shown, and what adapters need beside.

    Threads: any.
    """

    # A tracker's own.
    _engine: Engine | None
    _logger: Logger | None

    def update_config(self, config: Any) -> None:
        """Add to the run's configuration; what it has under the same names is replaced.

        For what becomes known after the start: text, the number of parameters, a data set's
        version. Values whose names look secret are redacted. Unlike `log_config` it makes no
        artifact. Never waits.

        Args:
            config: a mapping, or anything else that the constructor's `config` takes.
        """
        if self._engine is not None:
            self._engine.update_config(config)
        elif self._logger is not None:
            self._logger.late_call()

    def describe(
        self,
        *,
        name: str | None = None,
        notes: str | None = None,
        tags: Sequence[str] | None = None,
        summary: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Change how the run is shown, where its backend can. Never waits.

        Args:
            name: the run's name from now on; None, as below: as it was.
            notes: free text for the run's page.
            tags: all of the run's tags, as they are to be shown.
            summary: values that stand for the run, by name, until a metric of that name is logged.
            metrics: how metrics are drawn and summed up, by their name or a beginning of it and
                "*": `step_metric` (the metric on the x axis), `hidden`, and `summary`, of "min",
                "max", "mean", "first" and "last", joined by commas.
        """
        if self._engine is not None:
            self._engine.describe(lambda: _as_page(name, notes, tags, summary, metrics))
        elif self._logger is not None:
            self._logger.late_call()

    def log_artifact(
        self, path: str | Path, name: str, type: str, aliases: Sequence[str] = ("latest",)
    ) -> None:
        """Upload files as a version of an artifact of any type; a checkpoint: `log_checkpoint`.

        Whatever WANDB_LOG_MODEL says; all else is as with `log_checkpoint`.

        Args:
            path: a file or a directory.
            name: the artifact's.
            type: such as "dataset".
            aliases: names of this version.
        """
        if self._engine is not None:
            self._engine.log_artifact(path, name, type, aliases)
        elif self._logger is not None:
            self._logger.late_call()

    def alert(self, title: str, text: str = "", level: str = "INFO") -> None:
        """Tell people something: whoever is told of the run's alerts, and W&B. Never waits.

        W&B is told where the run goes there, also where `Options.alerts` does not name it.

        Args:
            title: what it is about, in some 60 letters.
            text: all of it.
            level: "INFO", "WARN" or "ERROR".
        """
        if self._engine is not None:
            settings = self._engine.settings
            heard = settings.alerts.are_told(settings.backends)
            self._engine.alert(title, text, level, heard=heard)
        elif self._logger is not None:
            self._logger.late_call()

    def get_run_dir(self) -> Path | None:
        """Return the directory of the run's journal, `wandb/fasttrack/<run id>`; None if inert."""
        return None if self._engine is None else self._engine.run_dir

    def get_run_url(self) -> str | None:
        """Return the run's page, or None while it is offline or not known yet. Never waits."""
        return None if self._engine is None else self._engine.delivery.report.url

    def get_earlier_step(self) -> int | None:
        """Return the step of the last row that the run's earlier attempts left on this disk.

        None in a new run, and where this process does not record. Reads the end of a file.
        """
        return None if self._engine is None else self._engine.earlier_step()

    def before_end(self, log_the_last: Callable[[], object]) -> None:
        """Have `log_the_last` called when the run is about to end, however it does.

        It may log what it has kept back. It must not wait for long: on SIGTERM it runs in the midst
        of whatever the main thread does.
        """
        if self._engine is not None:
            self._engine.before_end(log_the_last)


def _as_page(name: Any, notes: Any, tags: Any, summary: Any, metrics: Any) -> Page:
    """Return what `describe` was given.

    Raises:
        ConfigurationError: an argument is of a wrong type.
    """
    from fasttrack.journal.entries import Page

    for argument, text in (("name", name), ("notes", notes)):
        if text is not None and not isinstance(text, str):
            raise ConfigurationError(f"{argument} must be text, not {_kind(text)}")
    if tags is not None and not (
        isinstance(tags, (list, tuple)) and all(isinstance(tag, str) for tag in tags)
    ):
        raise ConfigurationError(f"tags must be a list of texts, not {_kind(tags)}")
    for argument, given in (("summary", summary), ("metrics", metrics)):
        if given is not None and not isinstance(given, Mapping):
            raise ConfigurationError(f"{argument} must be a mapping by name, not {_kind(given)}")
    for metric, told in (metrics or {}).items():
        if not isinstance(told, Mapping):
            raise ConfigurationError(
                f"metrics: what is said of {metric!r} must be a mapping, not {_kind(told)}"
            )
    return Page(
        name=name,
        notes=notes,
        tags=None if tags is None else tuple(tags),
        summary=dict(summary or {}),
        metrics=dict(metrics or {}),
    )


def _kind(value: object) -> str:
    return type(value).__name__
