"""`cursor.json`: what of a run has been delivered where, and what proves it. One writer at a time.

It holds one ledger per backend, so that each destination gets every row once, with a proof of its
own. Version 1 knew W&B alone; it is read as that backend's ledger.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import orjson

from fasttrack.journal.json_bytes import json_bytes
from fasttrack.journal.run_directory import cursor_path, meanwhile_cursor_path

if TYPE_CHECKING:
    from pathlib import Path

_VERSION = 2


@dataclass(kw_only=True)
class SegmentLedger:
    """What is known of one segment's delivery to one backend."""

    rows: int = 0
    """Rows that the segment held when it was last delivered."""
    arrived: int = 0
    """How many of its first rows the destination is known to have."""
    size_bytes: int = 0
    """Size of the segment when it was last read to its end; the proofs are for so much."""
    proof: str | None = None
    """How we know that the destination has every row; None: it may not."""
    offline_proof: str | None = None
    """How we know that a local stand-in, for a later upload, holds every row; None: it may not."""
    recheck: bool = False
    """Whether rows that were handed over are known to be missing, or may be: what the destination
    holds is then compared row by row before anything is sent."""
    refused: dict[str, str] = field(default_factory=dict)
    """By metric: which of its values the destination never takes, and why."""
    artifacts: dict[str, str | None] = field(default_factory=dict)
    """By number: how we know that the destination has the artifact, or why it never will; None: it
    may not."""


@dataclass(kw_only=True)
class Ledger:
    """What is known of a run's delivery to one backend."""

    url: str | None = None
    """Where a person looks at the run."""
    directory: str | None = None
    """The local directory that it was last delivered into."""
    added: bool = False
    """Whether somebody asked for it after the run was recorded, so that all attempts are for it."""
    segments: dict[str, SegmentLedger] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    """What the backend itself wants to know the next time; its own business, and JSON."""

    def segment(self, name: str) -> SegmentLedger:
        """Return what is known of segment `name`, made new where nothing is."""
        return self.segments.setdefault(name, SegmentLedger())


@dataclass(kw_only=True)
class Cursor:
    """The state of a run's delivery."""

    version: int = _VERSION
    backends: dict[str, Ledger] = field(default_factory=dict)

    def ledger(self, backend: str) -> Ledger:
        """Return the ledger of `backend`, made new where there is none."""
        return self.backends.setdefault(backend, Ledger())

    @property
    def added(self) -> list[str]:
        """The backends that were asked for after the run was recorded."""
        return [name for name, ledger in self.backends.items() if ledger.added]

    def save(self, path: Path) -> None:
        """Replace the file at `path` in one step.

        Raises:
            OSError: the disk does not take it.
        """
        scratch = path.with_suffix(".tmp")
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(json_bytes(asdict(self), orjson.OPT_INDENT_2))
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)


def load_cursor(path: Path) -> Cursor:
    """Return the cursor saved at `path`; an unknown or damaged one counts as nothing delivered."""
    try:
        saved: Any = orjson.loads(path.read_bytes())
        if saved["version"] == 1:
            return Cursor(backends={"wandb": _from_version_1(saved)})
        if saved["version"] != _VERSION:
            return Cursor()
        return Cursor(backends={name: _ledger(told) for name, told in saved["backends"].items()})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Cursor()


def _ledger(told: Any) -> Ledger:
    segments = {name: SegmentLedger(**state) for name, state in told["segments"].items()}
    return Ledger(**{**told, "segments": segments})


def _from_version_1(saved: Any) -> Ledger:
    """Return the ledger of a cursor that knew only W&B, whose own facts become its notes."""
    known: dict[str, object] = {"url": None, "open_directory": None, "offline_directories": []}
    if unknown := saved.keys() - known.keys() - {"version", "segments"}:
        raise ValueError(f"not a cursor of version 1: {unknown}")
    ledger = Ledger(url=saved.get("url"))
    steps = {}
    for name, told in saved["segments"].items():
        state = {"base_step": None, "last_step": -1, "online_proof": None, **told}
        steps[name] = {key: state.pop(key) for key in ("base_step", "last_step")}
        ledger.segments[name] = SegmentLedger(proof=state.pop("online_proof"), **state)
    notes = {key: saved.get(key, default) for key, default in known.items() if key != "url"}
    ledger.notes = {"segments": steps, **notes}
    return ledger


def load_known(run_dir: Path) -> Cursor:
    """Return what is known of a run's delivery: by its own, and by one beside it meanwhile.

    An offline run's own delivery fills a local stand-in as long as the run goes on; meanwhile
    another may bring its rows to the destination, and keeps a cursor of its own.
    """
    known = load_cursor(cursor_path(run_dir))
    for name, meanwhile in load_cursor(meanwhile_cursor_path(run_dir)).backends.items():
        known.backends[name] = _joined(known.ledger(name), meanwhile)
    return known


def _joined(own: Ledger, meanwhile: Ledger) -> Ledger:
    segments = {**own.segments}
    for name, state in meanwhile.segments.items():
        segments[name] = _joined_state(segments.get(name, SegmentLedger()), state)
    # What is kept by segment is the destination's; all else, such as names of stand-ins, is local.
    told = {**meanwhile.notes, **own.notes}
    for key, value in meanwhile.notes.items():
        if isinstance(value, dict):
            told[key] = {**own.notes.get(key, {}), **value}
    return replace(own, url=meanwhile.url or own.url, segments=segments, notes=told)


def _joined_state(own: SegmentLedger, meanwhile: SegmentLedger) -> SegmentLedger:
    """Return what both know of a segment; a proof counts for as much as it was made for."""
    if own.proof and own.size_bytes >= meanwhile.size_bytes:
        return own
    found = meanwhile if meanwhile.size_bytes >= own.size_bytes else own
    return SegmentLedger(
        rows=found.rows,
        arrived=max(own.arrived, meanwhile.arrived),
        size_bytes=found.size_bytes,
        proof=meanwhile.proof if found.size_bytes == meanwhile.size_bytes else None,
        offline_proof=own.offline_proof if found.size_bytes == own.size_bytes else None,
        recheck=own.recheck or meanwhile.recheck,
        refused={**own.refused, **meanwhile.refused},
        artifacts={**own.artifacts},
    )
