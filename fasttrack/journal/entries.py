"""The journal's lines as values: what each kind holds, and how they are written and read.

All about lines stands here and, for rows, in `rows.py` and `media.py`; what goes wrong in training
is in `trouble.py`.

A line is one JSON object with a key `kind`. Its other keys are the fields below, under the names
given here in quotes where they differ; times are unix seconds. A segment's first line is its
`Header`, its last, once its attempt has ended, a `Finish`. Keys that a line lacks (an older
version wrote it) have the defaults below; keys and kinds that are not known here (a newer one did)
are passed over.

JSON knows no NaN or infinity: where a number may be one, it stands as the string "NaN",
"Infinity" or "-Infinity".
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any, ClassVar, TypeAlias

import orjson

from fasttrack.journal.media import MediaRow, media_of
from fasttrack.journal.rows import Row, row_of
from fasttrack.journal.trouble import AskedAlert, BadLayers, Flight, RanksStanding

FORMAT_VERSION = 2
"""2: the header names the run's backends. Version 1 is read as a run for W&B alone."""

DEFAULT_BACKENDS = ("wandb",)
"""Where rows go of a run that does not say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Who trains, for whom, and how it is to be delivered."""

    kind: ClassVar[str] = "header"

    version: int = 1
    """Of the format; see `FORMAT_VERSION`."""
    run_id: str
    attempt: int = 1
    """Number of the segment, from 1."""
    resumed: bool = False
    """Whether the run's id was given: earlier rows may be on the server."""
    project: str = ""
    entity: str | None = None
    """W&B user or team; None: the account's own."""
    name: str | None = None
    """None in a resumed attempt: the run has one."""
    tags: tuple[str, ...] | None = None
    """As "name:value"; None: none, or as in an earlier attempt."""
    group: str | None = None
    notes: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    """The user's configuration, secrets redacted."""
    mode: str = "online"
    """"online" or "offline"."""
    backends: tuple[str, ...] = DEFAULT_BACKENDS
    """Where rows are delivered to, by the names in the registry; empty: nowhere."""
    time_s: float = 0.0
    """"time": when the tracker was made."""
    world_size: int = 1
    """Ranks in the job."""
    console: bool = True
    """Whether what the program prints is captured."""
    sweep_id: str | None = None
    """The W&B sweep that the run is a trial of; None: of none."""
    finish_timeout_s: float = 60.0
    """How long delivery may take once the trainer has left."""
    upload_timeout_s: float = 3600.0
    """How much longer while artifacts are uploaded."""
    online_timeout_s: float = 30.0
    """How long a server is tried before delivery falls back to offline."""
    hang_timeout_s: float = 60.0
    """After how long a client's call that should take no time counts as hung."""
    alerts: dict[str, Any] = field(default_factory=dict)
    """What is watched for and who is told (`alerts/settings.py`), without secrets; empty: nothing
    and nobody."""
    pid: int = 0
    host: str = ""
    executable: str = ""
    """The Python that trains."""
    argv: tuple[str, ...] = ()
    """Its command line, secrets redacted."""
    program: str | None = None
    """The file of `__main__`; None where there is none."""
    program_relpath: str | None = None
    cwd: str = ""


@dataclass(frozen=True, slots=True)
class Console:
    """What the program printed."""

    kind: ClassVar[str] = "console"

    stream: str
    """"stdout" or "stderr"."""
    text: str
    time_s: float = 0.0
    """"time"."""


@dataclass(frozen=True, slots=True)
class Config:
    """An addition to the run's configuration."""

    kind: ClassVar[str] = "config"

    values: dict[str, Any]
    """The user's, secrets redacted."""
    time_s: float = 0.0
    """"time"."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What `get_metadata` found out: code, seeds, job, versions, machine."""

    kind: ClassVar[str] = "metadata"

    values: dict[str, Any]
    time_s: float = 0.0
    """"time"."""

    @property
    def git(self) -> dict[str, Any]:
        """What is known of the code; {} without a repository."""
        return self.values.get("git") or {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """Files that are staged for an upload."""

    kind: ClassVar[str] = "artifact"

    number: int
    """Of the attempt's artifacts, from 1."""
    type: str
    """"config", "model", or what the trainer calls it."""
    name: str
    aliases: tuple[str, ...] = ()
    directory: str
    """Where they are staged, relative to the run's directory."""
    files: int = 0
    size_bytes: int = 0
    step: int | None = None
    """The training step at which it was logged; None before the first."""
    time_s: float = 0.0
    """"time"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What became known of how the run is to be shown, after its start."""

    kind: ClassVar[str] = "page"

    name: str | None = None
    """None, as below: as it was."""
    notes: str | None = None
    tags: tuple[str, ...] | None = None
    """All of them, as they are shown."""
    summary: dict[str, Any] = field(default_factory=dict)
    """What shall stand for the run, by name, until a row has a metric of that name."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Of metrics, by name or by a beginning and "*": `step_metric`, `hidden` and `summary`, the
    aggregates ("min,max") that stand for it instead of its last value."""
    time_s: float = 0.0
    """"time"."""

    def __post_init__(self) -> None:
        """Look into `metrics`, which whoever shows the run relies on.

        Raises:
            ValueError: what is said of a metric is no mapping.
        """
        if not all(isinstance(told, dict) for told in self.metrics.values()):
            raise ValueError("what is said of a metric is no mapping")


@dataclass(frozen=True, slots=True)
class Pausing:
    """A marked pause that takes a while: rows are not to be expected."""

    kind: ClassVar[str] = "pause"

    begins: bool
    """False: it is over."""
    time_s: float = 0.0
    """"time"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlogged:
    """Training steps that no row tells of: before an attempt's first row, or after its last."""

    kind: ClassVar[str] = "unlogged"

    steps: int
    """How many."""
    first_s: float = 0.0
    """"first": when the first of them ended; 0: there are none, and there was a pause only."""
    last_s: float = 0.0
    """"last": when the last of them did."""
    trained_s: float = 0.0
    """"trained": seconds of training from the row before to the last of them, or from the first of
    them where there is no such row; pauses left out."""
    pause_s: float = 0.0
    """"pause": seconds of marked pauses since then, up to the end of the attempt. Of steps before a
    row, the row tells."""
    time_s: float = 0.0
    """"time"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """How the attempt ended."""

    kind: ClassVar[str] = "finish"

    exit_code: int
    """0: success."""
    preempting: bool = False
    """Whether the run is to go on in another attempt."""
    time_s: float = 0.0
    """"time"."""
    deadline_s: float = 0.0
    """"deadline": until when the trainer waits for delivery."""
    last_step: int | None = None
    """The number of the last training step, whether or not it was logged; None: there was none, or
    none that a row can have."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A line of a kind that a newer version has; passed over."""

    kind: str


Recorded: TypeAlias = (
    "Config | Metadata | Artifact | Page | Pausing | Unlogged | Flight | BadLayers | RanksStanding"
    " | AskedAlert"
)
"""What the trainer's calls leave beside rows."""
Entry: TypeAlias = "Header | Row | Console | Recorded | Finish | Unknown"

_KINDS = (
    *(Header, Console, Config, Metadata, Artifact, Page, Pausing, Unlogged),
    *(Flight, BadLayers, RanksStanding, AskedAlert, Finish),
)
_CLASSES = {cls.kind: cls for cls in _KINDS}
_KEYS = {  # field -> key, where they differ
    "time_s": "time",
    "deadline_s": "deadline",
    "first_s": "first",
    "last_s": "last",
    "trained_s": "trained",
    "pause_s": "pause",
}
_JSON_TYPES: dict[object, frozenset[type]] = {  # of a field, by its annotation
    "bool": frozenset((bool,)),
    "int": frozenset((int,)),
    "int | None": frozenset((int, NoneType)),
    "float": frozenset((float, int)),
    "str": frozenset((str,)),
    "str | None": frozenset((str, NoneType)),
    "tuple[str, ...]": frozenset((list,)),
    "tuple[str, ...] | None": frozenset((list, NoneType)),
    "dict[str, Any]": frozenset((dict,)),
}
_DEEPEST = 254  # levels that orjson writes; what is read recursively must not be deeper
_FIELDS = {
    cls: tuple((f.name, _KEYS.get(f.name, f.name), _JSON_TYPES[f.type]) for f in fields(cls))
    for cls in _CLASSES.values()
}


def encode(entry: Header | Console | Recorded | Finish) -> bytes:
    """Return `entry` as one line, newline included. A row: see `rows.encode_row`.

    Raises:
        TypeError: something in it is not representable in JSON, or a key is not a string
            (`orjson.JSONEncodeError`).
    """
    line: dict[str, object] = {"kind": entry.kind}
    for name, key, _ in _FIELDS[type(entry)]:
        line[key] = getattr(entry, name)
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def decode(line: bytes) -> Entry:
    """Return the entry of one line.

    Raises:
        ValueError: the line is not one that fasttrack wrote; says why, without its values.
    """
    found = orjson.loads(line)
    if type(found) is not dict:
        raise ValueError("not an object")
    try:
        kind = found["kind"]
        if kind == "row":
            return row_of(found)
        if kind == MediaRow.kind:
            return media_of(found)
        cls = _CLASSES.get(kind)
        if cls is None:
            return Unknown(_checked("kind", kind, _JSON_TYPES["str"]))
        known = [field for field in _FIELDS[cls] if field[1] in found]
        entry: Entry = cls(**{name: _checked(key, found[key], types) for name, key, types in known})
        return entry
    except KeyError as error:
        raise ValueError(f"{error} is missing") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not a journal line: {error}") from error


def entry_of(line: bytes) -> Entry | None:
    """Return the entry of one line; None where it is damaged, which is not to be told."""
    try:
        return decode(line)
    except ValueError:
        return None


def salvage_header(line: bytes, run_id: str) -> Header:
    """Return what a damaged line has of a header; a field that is wrong has its default.

    Args:
        line: a segment's first.
        run_id: the run's, where the line does not say it.

    Raises:
        ValueError: the line is no object of the kind.
    """
    found = orjson.loads(line)
    if type(found) is not dict or found.get("kind") != Header.kind:
        raise ValueError("not a header")
    whole: dict[str, Any] = {"run_id": run_id}
    for name, key, types in _FIELDS[Header]:
        if key in found:
            with contextlib.suppress(ValueError):
                whole[name] = _checked(key, found[key], types)
    return Header(**whole)


def _checked(key: str, value: Any, types: frozenset[type]) -> Any:
    """Return the value of a field; what is read later on relies on its type."""
    kind = type(value)
    if kind not in types:
        raise ValueError(f"{key} must not be a {kind.__name__}")
    if kind is list:
        if any(type(item) is not str for item in value):
            raise ValueError(f"{key} must hold texts only")
        return tuple(value)
    if kind is dict and _deeper_than(value, _DEEPEST):
        raise ValueError(f"{key} is nested too deeply")
    return value


def _deeper_than(value: object, levels: int) -> bool:
    """Return whether a value of JSON is nested more deeply; not by recursion."""
    level = [value]
    while levels and level:
        inner = (each.values() if type(each) is dict else each for each in level)
        level = [each for group in inner for each in group if type(each) in (dict, list)]  # type: ignore[attr-defined]
        levels -= 1
    return bool(level)


def merge_headers(headers: list[Header]) -> Header | None:
    """Return the newest of `headers` (oldest first), completed from earlier ones; None of none.

    A resumed attempt need not repeat what describes the run: name, tags, group, notes, entity.
    """
    if not headers:
        return None
    merged = {name: getattr(headers[-1], name) for name, *_ in _FIELDS[Header]}
    for earlier in reversed(headers[:-1]):
        for name in ("name", "tags", "group", "notes", "entity", "sweep_id"):
            if merged[name] is None:
                merged[name] = getattr(earlier, name)
    return Header(**merged)
