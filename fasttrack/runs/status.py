"""What became of a run: how its trainer fares, and what of it is proven to be delivered."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrack.journal.cursor import SegmentState, load_cursor
from fasttrack.journal.entries import decode
from fasttrack.journal.reader import SegmentReader, read_finish
from fasttrack.journal.run_directory import attempt
from fasttrack.runs.local import count_rows

if TYPE_CHECKING:
    from fasttrack.runs.local import LocalRun

_RECENT_S = 300.0
_CLOCK_SLACK_S = 60.0
_TAIL_BYTES = 64 * 1024


@dataclass(frozen=True)
class State:
    """How a run's newest attempt fares."""

    word: str
    """"finished", "failed" or "preempted": its last line says so. Without such a line: "running" or
    "crashed", if the trainer ran on this host; "running?", if it runs on another host and wrote
    within five minutes; else "unknown"."""
    exit_code: int | None
    """What the trainer left with; None where it has not said so."""
    ended_s: float | None
    """Unix time at which it said so."""


def find_state(run: LocalRun) -> State:
    """Return how the newest attempt of `run` fares."""
    segment, header = run.segments[-1], run.headers[-1]
    finish = read_finish(segment)
    if finish is not None:
        code = finish["exit_code"]
        word = "preempted" if finish["preempting"] else "failed" if code else "finished"
        return State(word, code, finish["time"])
    if header.get("host") == socket.gethostname():
        return State(
            "running" if _is_alive(header["pid"], header["time"]) else "crashed", None, None
        )
    recent = time.time() - _last_written_s(segment) < _RECENT_S
    return State("running?" if recent else "unknown", None, None)


def _is_alive(pid: int, seen_s: float) -> bool:
    """Return whether the process that had the id `pid` at `seen_s` (unix time) still runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is another user's
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # not Linux, or hidden from us
        return True
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    # A process that was born after the run began got the id later; one in state Z has ended.
    return fields[0] != "Z" and time.time() - age_s < seen_s + _CLOCK_SLACK_S


def _last_written_s(segment: Path) -> float:
    """Return the time in the last whole line that has one; a copy's file times tell nothing."""
    with segment.open("rb") as file:
        file.seek(max(0, segment.stat().st_size - _TAIL_BYTES))
        for line in reversed(file.read().split(b"\n")):
            try:
                return float(decode(line)["time"])
            except (ValueError, KeyError):
                continue
    return 0.0


@dataclass(frozen=True)
class SegmentDelivery:
    """What is proven of one attempt's rows."""

    attempt: int
    rows: int
    server: str | None
    """What proves that the server has every row; None: nothing does."""
    offline: str | None
    """What proves that an offline W&B directory holds every row; None: nothing does."""


@dataclass(frozen=True)
class Delivery:
    """What is proven of a run's rows."""

    segments: list[SegmentDelivery]
    url: str | None
    offline_directories: list[str]
    artifacts: dict[tuple[int, str], str | None]
    """(attempt, number) -> what proves the artifact's delivery, or why it is off; None: pending."""

    @property
    def rows(self) -> int:
        """How many rows the run has."""
        return sum(segment.rows for segment in self.segments)

    @property
    def word(self) -> str:
        """Where it is: "server", "offline dir", "partly" (some of it is somewhere) or "no"."""
        if all(segment.server for segment in self.segments):
            return "partly" if None in self.artifacts.values() else "server"
        proven = [bool(segment.server or segment.offline) for segment in self.segments]
        return "offline dir" if all(proven) else "partly" if any(proven) else "no"

    @property
    def proofs(self) -> list[str]:
        """What proves the newest state of each delivered attempt, without repetition."""
        return list(dict.fromkeys(p for s in self.segments if (p := s.server or s.offline)))


def find_delivery(run: LocalRun) -> Delivery:
    """Return what is proven of `run`. Counts its rows.

    Raises:
        OSError: a segment cannot be read.
    """
    cursor = load_cursor(run.directory / "cursor.json")
    segments, artifacts = [], {}
    for path in run.segments:
        state = cursor.segments.get(path.name, SegmentState())
        rows = count_rows(path)
        if rows > state.rows and (state.online_proof or state.offline_proof):
            rows = _count_whole_rows(path)  # the rest may be damaged lines, or new rows
        proven = rows <= state.rows
        server, offline = (p if proven else None for p in (state.online_proof, state.offline_proof))
        segments.append(SegmentDelivery(attempt(path), rows, server, offline))
        artifacts.update({(attempt(path), n): proof for n, proof in state.artifacts.items()})
    return Delivery(segments, cursor.url, cursor.offline_directories, artifacts)


def _count_whole_rows(segment: Path) -> int:
    reader = SegmentReader(segment)
    count = 0
    while batch := reader.read():
        count += sum(entry.get("kind") == "row" for entry in batch)
    reader.close()
    return count


def summarize(run: LocalRun) -> dict[str, Any]:
    """Return a run's line in `fasttrack runs --json`; `show --json` begins with the same keys.

    Raises:
        OSError: a segment cannot be read.
    """
    state, delivery = find_state(run), find_delivery(run)
    return {
        "run_id": run.run_id,
        "name": run.header.get("name"),
        "project": run.header.get("project"),
        "entity": run.header.get("entity"),
        "state": state.word,
        "exit_code": state.exit_code,
        "rows": delivery.rows,
        "attempts": len(delivery.segments),
        "started": run.started_s,
        "delivered": delivery.word,
        "proofs": delivery.proofs,
        "url": delivery.url,
        "directory": str(run.directory.absolute()),
    }
