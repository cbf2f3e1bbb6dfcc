"""What delivery reports, as values: to the trainer over a pipe, to `fasttrack sync` on stdout.

Each is one line of JSON: its fields, and its name under the key "event".
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, TypeAlias

import orjson

from fasttrack.journal.json_bytes import json_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Online:
    """The backend was opened at its destination."""

    event: ClassVar[str] = "online"

    backend: str
    url: str | None = None
    """Where a person looks at the run."""
    directory: str | None = None
    """Where it lies on this machine."""
    look: str | None = None
    """The command by which a person looks at it, where there is no page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offline:
    """Rows go to a local stand-in, for a later upload."""

    event: ClassVar[str] = "offline"

    backend: str
    directory: str
    reason: str | None = None
    """Why it fell back; None: offline was asked for."""
    network: bool = False
    """Whether it did because the destination was not reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Delivery was interrupted, and will be tried again."""

    event: ClassVar[str] = "trouble"

    backend: str
    reason: str
    rows: int = 0
    """How many rows were handed over in this session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far delivery is."""

    event: ClassVar[str] = "progress"

    backend: str
    rows: int
    uploaded_bytes: int | None = None
    """How much of the session's files was sent, while artifacts are waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """How an artifact fares."""

    event: ClassVar[str] = "upload"

    backend: str
    number: int
    name: str
    state: str
    """"hashing", "uploading", "done" or "failed"."""
    size_bytes: int = 0
    aliases: tuple[str, ...] = ()
    reason: str | None = None
    """Why it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Something of the run is not delivered and never will be; all the rest is."""

    event: ClassVar[str] = "left_out"

    backend: str
    what: str
    """What it is, where it stands, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Delivery to one backend is over."""

    event: ClassVar[str] = "done"

    backend: str
    delivered: bool
    """Whether all is proven delivered."""
    already: bool = False
    """Whether it was before this delivery began."""
    offline: bool = False
    """Whether that is in a local stand-in, which a later upload takes."""
    rows: int = 0
    proof: str | None = None
    url: str | None = None
    directory: str | None = None
    reason: str | None = None
    """Why not all is delivered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """The process runs; told every few seconds."""

    event: ClassVar[str] = "beat"


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAsked:
    """Somebody at the destination asked the training to stop."""

    event: ClassVar[str] = "stop_asked"

    backend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """Something that whoever trains is told, of no backend."""

    event: ClassVar[str] = "said"

    key: str
    """It is told once for each."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """Another process delivers the run."""

    event: ClassVar[str] = "busy"

    holder: str = "another process"
    """Which, in words."""


Event: TypeAlias = (
    "Online | Offline | Trouble | Progress | Upload | LeftOut | Done | StopAsked | Beat | Said"
    " | Busy"
)

_KINDS = (Online, Offline, Trouble, Progress, Upload, LeftOut, Done, StopAsked, Beat, Said, Busy)
_CLASSES = {cls.event: cls for cls in _KINDS}


def encode(event: Event) -> bytes:
    """Return `event` as one line, newline included."""
    told: dict[str, object] = {"event": event.event}
    for field in fields(event):
        told[field.name] = getattr(event, field.name)
    return json_bytes(told, orjson.OPT_APPEND_NEWLINE)


def decode(line: bytes | str) -> Event:
    """Return the event of one line.

    Raises:
        ValueError: the line is none (something that a client printed, say).
    """
    told = orjson.loads(line)
    try:
        cls = _CLASSES[told.pop("event")]
        if "aliases" in told:
            told["aliases"] = tuple(told["aliases"])
        event: Event = cls(**told)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a report of delivery: {error!r}") from error
    return event
