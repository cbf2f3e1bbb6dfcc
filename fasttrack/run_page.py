"""How a run is to be shown: what of it becomes known while it goes on. For adapters, mostly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fasttrack.media.calls import MediaCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from fasttrack.engine import Engine
    from fasttrack.quick_calls import Logger


class RunPage(MediaCalls):
    """The calls of a tracker that change how its run is shown, and what adapters need beside.

    Threads: any.
    """

    # A tracker's own.
    _engine: Engine | None
    _logger: Logger | None

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
            from fasttrack.journal.entries import Page

            self._engine.describe(
                Page(
                    name=name,
                    notes=notes,
                    tags=None if tags is None else tuple(tags),
                    summary=dict(summary or {}),
                    metrics=dict(metrics or {}),
                )
            )
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
