"""The runs of a directory, for a page that shows them while they go on."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fasttrack.journal.run_directory import alerts_path, segments
from fasttrack.runs.local import LocalRun, readable, run_directories
from fasttrack.runs.status import find_status
from fasttrack.views.web.media import read_media
from fasttrack.views.web.page_run import PageRun

if TYPE_CHECKING:
    from pathlib import Path

_MOST_HELD = 64  # runs of which lines are kept in memory, some MB each
_GOING_ON = ("running", "running?")


@dataclass(frozen=True, slots=True)
class _Listed:
    """A run as the list shows it."""

    version: str
    """Changes with what is written."""
    name: str | None
    run_id: str
    project: str | None
    state: str
    started_s: float
    resumed_s: float

    def as_json(self, key: str) -> dict[str, object]:
        return {
            "key": key,
            "id": self.run_id,
            "name": self.name,
            "project": self.project,
            "state": self.state,
            "started_s": self.started_s,
            "version": self.version,
        }


@dataclass(slots=True)
class _Held:
    """A run that was asked for."""

    page_run: PageRun
    lock: threading.Lock = field(default_factory=threading.Lock)


class LiveRuns:
    """The runs under a directory, as they are whenever they are asked for.

    Threads: any.
    """

    def __init__(self, base: Path) -> None:
        """Look under `base`, the parent of `wandb/`."""
        self._base = base
        self._lock = threading.Lock()  # for what follows
        self._listed: dict[str, _Listed] = {}
        self._held: OrderedDict[str, _Held] = OrderedDict()

    def listing(self) -> dict[str, object]:
        """Return the runs, the one that was begun or resumed last first, and where they are.

        Raises:
            OSError: the directory cannot be read.
        """
        found = {_key(path): path for path in run_directories(self._base)}
        with self._lock:
            known = self._listed
        listed = {key: _list_one(path, known.get(key)) for key, path in found.items()}
        with self._lock:
            self._listed = listed
        keys = sorted(listed, key=lambda key: (-listed[key].resumed_s, key))
        where = os.fsencode(self._base.absolute()).decode(errors="replace")
        return {"directory": where, "runs": [listed[key].as_json(key) for key in keys]}

    def media(self, key: str) -> list[dict[str, Any]] | None:
        """Return what the page is told of a run's media; None: there is no run of this name.

        Raises:
            RunUnreadableError: it cannot be read.
        """
        path = self._find(key)
        if path is None:
            return None
        with readable(path):
            return read_media(path)

    def pack(self, key: str) -> bytes | None:
        """Return what the page is handed of a run; None: there is none of this name.

        Raises:
            RunUnreadableError: it cannot be read.
        """
        path = self._find(key)
        if path is None:
            return None
        with self._lock:
            if key not in self._held:
                self._held[key] = _Held(PageRun(LocalRun(path), key, lambda name: True))
            self._held.move_to_end(key)
            while len(self._held) > _MOST_HELD:
                self._held.popitem(last=False)
            held = self._held[key]
        with held.lock:
            return held.page_run.pack()

    def _find(self, key: str) -> Path | None:
        return next((path for path in run_directories(self._base) if _key(path) == key), None)


def _key(directory: Path) -> str:
    return os.fsencode(directory.name).decode(errors="replace")


def _list_one(directory: Path, known: _Listed | None) -> _Listed:
    run = LocalRun(directory)
    try:
        version = _version(run)
        if known is not None and known.version == version and known.state not in _GOING_ON:
            return known
        return _Listed(
            version=version,
            name=run.name,
            run_id=run.run_id,
            project=run.project,
            state=find_status(run).word,
            started_s=run.started_s,
            resumed_s=run.resumed_s,
        )
    except (OSError, IndexError):  # IndexError: its segments are gone by now
        return _Listed("", None, _key(directory), None, "unreadable", 0.0, 0.0)


def _version(run: LocalRun) -> str:
    paths = [*segments(run.directory), alerts_path(run.directory)]
    states = [path.stat() for path in paths if path.exists()]
    return "-".join(f"{state.st_size}.{state.st_mtime_ns}" for state in states)
