"""Runs as data: all of a directory, or one, with everything that its journal holds.

    for run in fasttrack.runs():
        print(run.id, run.state, run.summary.get("loss/total"))

    frame = fasttrack.open_run("3fk2a1bc").history().to_pandas()

Each attribute is read from disk when it is asked for: those of a live run are as they are by then.
Reading takes no lock and changes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrack.errors import ConfigurationError
from fasttrack.goodput import read_goodput
from fasttrack.journal.entries import Header, Metadata
from fasttrack.journal.lines import read_rare
from fasttrack.runs.history import History
from fasttrack.runs.last_values import last_values
from fasttrack.runs.local import LocalRun, find_run, list_runs, readable
from fasttrack.runs.media import media_of
from fasttrack.runs.status import find_delivery, find_status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fasttrack.goodput import Goodput
    from fasttrack.journal.entries import Config
    from fasttrack.journal.rows import Number
    from fasttrack.runs.media import LoggedMedia
    from fasttrack.runs.status import DeliveryStatus, RunStatus

_LIVE = ("running", "running?")


class Run:
    """A run on this machine's disk, live or ended.

    Threads: any.

    Attributes:
        id: the run's id.
        directory: where its journal lies.
    """

    def __init__(self, directory: Path) -> None:
        """Take the directory of a run; see `open_run`."""
        self.directory = directory.absolute()
        self.id = self._local().run_id

    def __repr__(self) -> str:
        """Return its id and name."""
        return f"<Run {self.id} ({self.name})>"

    @property
    def name(self) -> str | None:
        """The run's name, as W&B shows it."""
        return self._local().name

    @property
    def project(self) -> str | None:
        """The project it belongs to."""
        return self._local().project

    @property
    def tags(self) -> tuple[str, ...]:
        """Its tags, as "name:value"."""
        header = self._local().header
        return () if header is None else header.tags or ()

    @property
    def state(self) -> str:
        """How its newest attempt fares: a word of `fasttrack runs`.

        "finished", "failed" or "preempted"; "running" or "crashed", if it trained on this host;
        "running?", if another host wrote within five minutes; else "unknown".
        """
        return self._status().word

    @property
    def exit_code(self) -> int | None:
        """What its newest attempt left with; None where it has not said so."""
        return self._status().exit_code

    @property
    def is_live(self) -> bool:
        """Whether rows may still come."""
        return self.state in _LIVE

    @property
    def started_s(self) -> float:
        """Unix time at which its first attempt began."""
        local = self._local()
        with readable(self.directory):
            return local.started_s

    @property
    def attempts(self) -> int:
        """How many attempts it has, the one under way included."""
        return len(self._local().segments)

    @property
    def rows(self) -> int:
        """How many rows are written. Counts them, which takes a second for some GB."""
        return self.delivery.rows

    @property
    def delivered(self) -> str:
        """What of it is proven to have arrived: a word of `fasttrack runs`."""
        return self.delivery.word

    @property
    def url(self) -> str | None:
        """Where a person looks at it; None where no destination has such a place."""
        return self.delivery.url

    @property
    def delivery(self) -> DeliveryStatus:
        """What is proven of its rows, in full."""
        local = self._local()
        with readable(self.directory):
            return find_delivery(local)

    @property
    def config(self) -> dict[str, Any]:
        """Its configuration, of all attempts together, with what was added later."""
        config: dict[str, Any] = {}
        for entry in self._rare():
            config.update({} if isinstance(entry, Metadata) else _config_of(entry))
        return config

    @property
    def metadata(self) -> dict[str, Any]:
        """Code, seeds, job, versions and machine of its newest attempt; {}: not known yet."""
        found = [entry.values for entry in self._rare() if isinstance(entry, Metadata)]
        return found[-1] if found else {}

    @property
    def summary(self) -> dict[str, Number]:
        """Each metric's last value, the metrics as they first came. Reads all rows."""
        return {name: value for name, (_, value) in self.last_values().items()}

    @property
    def metrics(self) -> list[str]:
        """The names of its metrics, in the order in which they first came. Reads all rows."""
        return list(self.last_values())

    def last_values(self) -> dict[str, tuple[int, Number]]:
        """Return the step and value of each metric's newest row that has it. Reads all rows.

        Raises:
            RunUnreadableError: it cannot be read.
        """
        local = self._local()
        with readable(self.directory):
            return last_values(local)

    def goodput(self) -> Goodput:
        """Return how much of its time trained steps whose result was kept. Reads all rows.

        Its figures are said at `fasttrack.goodput.figures`: `share`, `lost_steps`, `restart_s` and
        others, of all attempts together and of each. Of a live run they are those up to its last
        line.

        Raises:
            RunUnreadableError: it cannot be read.
        """
        local = self._local()
        with readable(self.directory):
            return read_goodput(local.segments)

    def media(self, name: str | None = None) -> list[LoggedMedia]:
        """Return what was logged by `log_media`, in order: name, step, kind, and the files' paths.

        Args:
            name: only what was logged as this; None: all.

        Raises:
            RunUnreadableError: it cannot be read.
        """
        with readable(self.directory):
            return [one for one in media_of(self.directory) if name in (None, one.name)]

    def history(
        self, metrics: Sequence[str] | str | None = None, last: int | None = None
    ) -> History:
        """Return its rows, to be had as pandas, polars, Arrow, or as they are.

        Nothing is read before the form is asked for: `.to_pandas()`, `.to_polars()`,
        `.to_arrow()` or `.rows()`.

        Args:
            metrics: names of metrics, or patterns such as 'loss/*': these columns only, and only
                rows that have one of them. None: all.
            last: only the newest so many of these rows, read from the end: as quick for a long run
                as for a short one. None: all.

        Raises:
            ConfigurationError: `last` is no number of rows.
        """
        return History(self._local(), metrics, last)

    def _local(self) -> LocalRun:
        local = LocalRun(self.directory)
        with readable(self.directory):
            if not local.segments:
                raise FileNotFoundError("its journal is gone")
            _ = local.headers
        return local

    def _status(self) -> RunStatus:
        local = self._local()
        with readable(self.directory):
            return find_status(local)

    def _rare(self) -> list[Header | Config | Metadata]:
        with readable(self.directory):
            return [entry for path in self._local().segments for entry in read_rare(path)]


def _config_of(entry: Header | Config) -> dict[str, Any]:
    return entry.config if isinstance(entry, Header) else entry.values


def open_run(run: str, directory: str | Path | None = None) -> Run:
    """Return a run on this machine's disk, live or ended.

    Args:
        run: its id, the beginning of one id only, the path of its directory, wherever it was
            copied to, or "latest", the one that was begun or resumed last.
        directory: the parent of `wandb/`; None: WANDB_DIR, else the working directory.

    Raises:
        ConfigurationError: `directory` is none.
        RunNotFoundError: there is no such run, or more than one.
        RunUnreadableError: it cannot be read.
    """
    base = _base(directory)
    with readable(Path(run)):
        return Run(find_run(str(run), base).directory)


def runs(directory: str | Path | None = None) -> list[Run]:
    """Return all runs of a directory, the one that was begun or resumed last first.

    Args:
        directory: the parent of `wandb/`; None: WANDB_DIR, else the working directory.

    Raises:
        ConfigurationError: `directory` is none.
        RunUnreadableError: one of them cannot be read; names the file.
    """
    base = _base(directory)
    with readable(base or Path()):
        return [Run(local.directory) for local in reversed(list_runs(base))]


def _base(directory: str | Path | None) -> Path | None:
    if directory is None:
        return None
    if not Path(directory).is_dir():
        raise ConfigurationError(f"directory={str(directory)!r}: there is no such directory")
    return Path(directory)
