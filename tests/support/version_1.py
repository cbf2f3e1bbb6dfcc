"""Runs that the code before the redesign has left: see `tests/data/v1/make.py`.

Of the data only what is in `fasttrack/` and `offline-run-*` was written by the old code; it stands
in a test's own directory after `copy_run`, as if that code had run there.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from support.wandb_server import WandbServer
    from support.wandb_server_runs import ServerRun

DATA = Path(__file__).resolve().parents[1] / "data" / "v1"
SCENARIOS = sorted(path.parent.name for path in DATA.glob("*/expected.json"))


@dataclass(frozen=True)
class OldRun:
    """One of the runs, in a directory where it may be changed."""

    directory: Path
    """Of its journal."""
    expected: dict[str, Any]
    """What the old code said of it, by the names in `expected.json`."""

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.directory.name

    @property
    def segments(self) -> list[Path]:
        """The files that the old code wrote its journal into, oldest attempt first."""
        return sorted(self.directory.glob("segment-*.jsonl"))

    def rows(self, *, proven: bool | None = None) -> list[dict[str, Any]]:
        """Return the rows as JSON says them; only those that `cursor.json`, as it is now, knows to
        be delivered somewhere (True), or not (False).
        """
        return [
            entry
            for path in self.segments
            if proven is None or proven == self._is_proven(path.name)
            for line in path.read_bytes().split(b"\n")[:-1]
            if (entry := json.loads(line))["kind"] == "row"
        ]

    def _is_proven(self, segment: str) -> bool:
        path = self.directory / "cursor.json"
        known = json.loads(path.read_bytes())["segments"] if path.exists() else {}
        state = known.get(segment, {})
        return bool(state.get("online_proof") or state.get("offline_proof"))


def copy_run(name: str, base: Path) -> OldRun:
    """Copy the run of scenario `name` to below `base`, which may hold others already."""
    ignore = shutil.ignore_patterns("server.json", "expected.json")
    shutil.copytree(DATA / name, base / "wandb", ignore=ignore, dirs_exist_ok=True)
    expected = json.loads((DATA / name / "expected.json").read_text(encoding="utf-8"))
    run_id = expected["show"]["run_id"]
    return OldRun(base / "wandb" / "fasttrack" / run_id, expected)


def preload(server: WandbServer, name: str) -> ServerRun | None:
    """Have `server` know what the server of scenario `name` knew; return its run, if it had one."""
    path = DATA / name / "server.json"
    if not path.exists():
        return None
    state = json.loads(path.read_text(encoding="utf-8"))
    for file, lines in state["streams"].items():
        state["streams"][file] = {int(offset): line for offset, line in lines.items()}
    return server.add_run(state)
