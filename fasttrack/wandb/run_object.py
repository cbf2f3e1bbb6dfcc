"""A run as W&B's client has them, on a tracker of ours."""

from __future__ import annotations

import tempfile
import time
from typing import TYPE_CHECKING, Any

from fasttrack.handler_errors import is_handlers
from fasttrack.wandb.alerts import Alerts
from fasttrack.wandb.config_object import Config
from fasttrack.wandb.files import Files
from fasttrack.wandb.rows import Rows
from fasttrack.wandb.said import say_once
from fasttrack.wandb.summary_object import Summary
from fasttrack.wandb.unknown import careful, give_up, named
from fasttrack.wandb.util import generate_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from typing_extensions import Self

    from fasttrack.tracker import ExperimentTracker

_SUMMARIES = ("min", "max", "mean", "last", "first")


class Metric:
    """What `define_metric` returns."""

    def __init__(self, name: str) -> None:
        """Be that of a name."""
        self.name = name


class Run(Files):
    """One run. Its calls wait for no device and no network, and raise nothing.

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
        earlier = tracker.get_earlier_step()
        super().__init__(tracker, tracker.get_run_id() or generate_id())
        self._told = dict(told)
        self._on_finish = on_finish
        self._preempting = False
        self.resumed = earlier is not None
        self.starting_step = 0 if earlier is None else earlier + 1
        self.start_time = time.time()
        self._rows = Rows(tracker.log_metrics, self.starting_step, tracker.log_media)
        self._alerts = Alerts(tracker.alert)
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
            if is_handlers(error):
                raise
            give_up("log", error)

    @careful
    def define_metric(
        self,
        name: str,
        step_metric: Any = None,
        step_sync: bool | None = None,
        hidden: bool | None = None,
        summary: str | None = None,
        overwrite: bool | None = None,
        **further: Any,
    ) -> Metric:
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
        return Metric(str(name))

    def watch(self, *models: Any, **further: Any) -> None:
        """Say that gradients and parameters are not drawn."""
        say_once("watch", "watch: histograms of gradients and parameters are not kept")

    def unwatch(self, *models: Any, **further: Any) -> None:
        """Do nothing."""

    @careful
    def alert(
        self, title: str, text: str = "", level: Any = None, wait_duration: Any = None
    ) -> None:
        """Tell W&B, and whoever else is told of the run's alerts.

        Args:
            title: what it is about.
            text: all of it.
            level: an `AlertLevel`, or its name; None: INFO.
            wait_duration: seconds, or a timedelta, in which no other of this title is sent; None: a
                minute.
        """
        self._alerts.take(title, text, level, wait_duration)

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
    @careful
    def name(self, name: str) -> None:
        self._told["name"] = str(name)
        self._tracker.describe(name=str(name))

    @property
    def notes(self) -> str | None:
        """Free text for the run's page."""
        return self._told.get("notes")

    @notes.setter
    @careful
    def notes(self, notes: str) -> None:
        self._told["notes"] = str(notes)
        self._tracker.describe(notes=str(notes))

    @property
    def tags(self) -> tuple[str, ...] | None:
        """The run's tags."""
        return self._told.get("tags")

    @tags.setter
    @careful
    def tags(self, tags: Sequence[str]) -> None:
        self._told["tags"] = told = (tags,) if isinstance(tags, str) else tuple(map(str, tags))
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
        """Whether nothing is recorded, on any rank."""
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
