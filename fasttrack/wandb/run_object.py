"""A run as W&B's client has them, on a tracker of ours."""

from __future__ import annotations

import glob
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrack.wandb.artifact import Artifact
from fasttrack.wandb.config_object import Config
from fasttrack.wandb.media import Media
from fasttrack.wandb.rows import Rows
from fasttrack.wandb.said import say_once
from fasttrack.wandb.summary_object import Summary
from fasttrack.wandb.unknown import Inert, named
from fasttrack.wandb.util import generate_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from typing_extensions import Self

    from fasttrack.tracker import ExperimentTracker

_SUMMARIES = ("min", "max", "mean", "last", "first")


class Run:
    """One run. Its calls cost microseconds, wait for nothing and raise nothing.

    Threads: log from any; the rest from one.
    """

    def __init__(
        self,
        tracker: ExperimentTracker,
        *,
        config: Mapping[str, Any],
        told: Mapping[str, Any],
        on_finish: Callable[[Run], None],
    ) -> None:
        """Stand on an open tracker.

        Args:
            tracker: of this run alone.
            config: with which it was opened.
            told: further arguments of `init`, for those who ask.
            on_finish: told when it ends.
        """
        self._tracker = tracker
        self._told = dict(told)
        self._on_finish = on_finish
        self._preempting = False
        earlier = tracker.get_earlier_step()
        self.id: str = tracker.get_run_id() or generate_id()
        self.resumed = earlier is not None
        self.starting_step = 0 if earlier is None else earlier + 1
        self.start_time = time.time()
        self._rows = Rows(tracker.log_metrics, self.starting_step)
        self.config = Config(config, tracker.update_config)
        self.summary = Summary(self._rows.last, lambda told: tracker.describe(summary=told))
        tracker.before_end(self._rows.close_at_end)

    # --- logging ----------------------------------------------------------------------------------

    def log(
        self, data: Mapping[str, Any], step: int | None = None, commit: bool | None = None
    ) -> None:
        """Add to the open row, and close it unless a step is given or `commit` is False.

        Args:
            data: metrics by name; mappings may be nested.
            step: of the row; what is behind the current one is dropped.
            commit: whether to close the row; None: where no step is given.
        """
        try:
            self._rows.log(data, step, commit)
        except Exception as error:  # a value's own code; nothing may raise into training
            say_once("log", f"a call of log is ignored: {error!r:.200}")

    def define_metric(
        self,
        name: str,
        step_metric: Any = None,
        step_sync: bool | None = None,
        hidden: bool | None = None,
        summary: str | None = None,
        overwrite: bool | None = None,
        **further: Any,
    ) -> Any:
        """Choose a metric's x axis, and what stands for it in the summary.

        Args:
            name: of the metric, or a beginning and "*".
            step_metric: the metric on its x axis.
            step_sync: whether rows get the axis' last value where they lack it; by default they do.
            hidden: whether it is drawn.
            summary: of "min", "max", "mean", "first" and "last", joined by commas.
            overwrite: accepted; the last call for a name counts.
            further: accepted.
        """
        axis = getattr(step_metric, "name", step_metric)
        words = [word.strip().lower() for word in str(summary or "").split(",") if word.strip()]
        for word in words:
            if word not in _SUMMARIES:
                say_once(f"summary={word}", f"define_metric: summary={word!r} is not kept")
        if axis is not None and step_sync is not False:
            self._rows.set_axis(str(name), str(axis))
        told = {
            "step_metric": None if axis is None else str(axis),
            "hidden": hidden,
            "summary": ",".join(word for word in words if word in _SUMMARIES),
        }
        self._tracker.describe(metrics={str(name): told})
        return _Metric(str(name))

    def watch(self, *models: Any, **further: Any) -> None:
        """Say that gradients and parameters are not drawn."""
        say_once("watch", "watch: histograms of gradients and parameters are not kept")

    def unwatch(self, *models: Any, **further: Any) -> None:
        """Do nothing."""

    def alert(self, title: str, text: str = "", *args: Any, **further: Any) -> None:
        """Print the alert; it is sent nowhere."""
        say_once(f"alert:{title}", f"alert (printed, sent nowhere): {title}: {text}")

    # --- files ------------------------------------------------------------------------------------

    def log_artifact(
        self,
        artifact_or_path: Any,
        name: str | None = None,
        type: str | None = None,
        aliases: Sequence[str] | None = None,
        tags: Any = None,
    ) -> Any:
        """Keep the files of an artifact, or at a path, and have them uploaded.

        Blocks while they are copied, as `ExperimentTracker.log_checkpoint`.
        """
        if isinstance(artifact_or_path, (Inert, Media)):
            return artifact_or_path
        artifact = artifact_or_path
        if not isinstance(artifact, Artifact):
            path = Path(artifact_or_path)
            artifact = Artifact(name or f"run-{self.id}-{path.name}", type or "unspecified")
            (artifact.add_dir if path.is_dir() else artifact.add_file)(str(path))
        chosen = tuple(aliases) if aliases is not None else ("latest",)
        self._artifacts = [*getattr(self, "_artifacts", ()), artifact]  # its folder must stay
        folder = artifact.directory
        inner = list(folder.iterdir())
        path = inner[0] if len(inner) == 1 and inner[0].is_file() else folder
        if artifact.type == "model":
            self._tracker.log_checkpoint(path.resolve(), chosen, force=True)
        else:
            self._tracker.log_artifact(path, artifact.name, artifact.type, chosen)
        return artifact

    def log_model(
        self, path: Any, name: str | None = None, aliases: Sequence[str] | None = None
    ) -> None:
        """Keep a model's files, and have them uploaded."""
        self.log_artifact(path, name, "model", aliases)

    def use_artifact(self, *args: Any, **further: Any) -> Any:
        """Say that artifacts cannot be fetched."""
        return named("wandb.use_artifact", "use_artifact")

    def save(
        self,
        glob_str: Any = None,
        base_path: Any = None,
        policy: str = "live",
        glob: bool = True,
    ) -> list[str]:
        """Keep files as they are now, as an artifact of the type "files"; return their paths."""
        if glob_str is None:
            return []
        paths = _find(os.fspath(glob_str), expand=glob)
        if paths:
            files = Artifact(f"files-{self.id}", "files")
            for path in paths:
                base = base_path if base_path is not None else os.path.dirname(path) or "."
                files.add_file(path, os.path.relpath(path, base))
            self.log_artifact(files)
        else:
            say_once(f"save:{glob_str}", f"save: no file is called {glob_str}")
        return paths

    # --- asking -----------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """The step of the open row."""
        return self._rows.step

    @property
    def name(self) -> str | None:
        """The run's name."""
        return self._told.get("name") or self._tracker.get_run_name()

    @name.setter
    def name(self, name: str) -> None:
        self._told["name"] = str(name)
        self._tracker.describe(name=str(name))

    @property
    def notes(self) -> str | None:
        """Free text for the run's page."""
        return self._told.get("notes")

    @notes.setter
    def notes(self, notes: str) -> None:
        self._told["notes"] = str(notes)
        self._tracker.describe(notes=str(notes))

    @property
    def tags(self) -> tuple[str, ...] | None:
        """The run's tags."""
        return self._told.get("tags")

    @tags.setter
    def tags(self, tags: Sequence[str]) -> None:
        self._told["tags"] = told = tuple(map(str, tags))
        self._tracker.describe(tags=told)

    @property
    def url(self) -> str | None:
        """The run's page; None while it is offline or not known yet."""
        return self._tracker.get_run_url()

    def get_url(self) -> str | None:
        """Return the run's page; None while it is offline or not known yet."""
        return self.url

    @property
    def project(self) -> str:
        """The run's project."""
        return str(self._told.get("project") or "")

    @property
    def entity(self) -> str:
        """The run's entity, where one was given."""
        return str(self._told.get("entity") or "")

    @property
    def group(self) -> str:
        """The run's group."""
        return str(self._told.get("group") or "")

    @property
    def job_type(self) -> str:
        """The run's job type."""
        return str(self._told.get("job_type") or "")

    @property
    def path(self) -> str:
        """The run's place on the server."""
        return "/".join(part for part in (self.entity, self.project, self.id) if part)

    @property
    def offline(self) -> bool:
        """Whether rows go to a local directory for now."""
        return self._tracker.is_offline()

    @property
    def disabled(self) -> bool:
        """Whether nothing is recorded."""
        return self._told.get("mode") == "disabled"

    @property
    def dir(self) -> str:
        """A directory for files of the run, which are not uploaded by themselves."""
        if "dir" not in self._told:
            base = self._tracker.get_run_dir()
            if base is None:
                self._told["dir"] = tempfile.mkdtemp(prefix="fasttrack-")
            else:
                (base / "files").mkdir(mode=0o700, exist_ok=True)
                self._told["dir"] = str(base / "files")
        return str(self._told["dir"])

    @property
    def tracker(self) -> ExperimentTracker:
        """The tracker that the run stands on."""
        return self._tracker

    # --- ending -----------------------------------------------------------------------------------

    def mark_preempting(self) -> None:
        """Have the run's end say that it is to go on in another job."""
        self._preempting = True

    def finish(self, exit_code: int | None = None, quiet: bool | None = None) -> None:
        """End the run. See `ExperimentTracker.finish`."""
        self._tracker.finish(exit_code or 0, preempting=self._preempting)
        self._on_finish(self)

    def __enter__(self) -> Self:
        """Return the run."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """End the run, as failed if an exception leaves the block (which goes on its way)."""
        self._tracker.__exit__(kind, error, traceback)
        self._on_finish(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return named(f"wandb.run.{name}", name)


class _Metric:
    """What `define_metric` returns."""

    def __init__(self, name: str) -> None:
        self.name = name


def _find(pattern: str, *, expand: bool) -> list[str]:
    found = glob.glob(pattern) if expand else [pattern]
    return sorted(path for path in found if os.path.isfile(path))
