"""What a `.wandb` file says of its run, as W&B's server would show it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fasttrack.delivery.backends.wandb.file import read_payloads

if TYPE_CHECKING:
    from pathlib import Path

_CLIENTS_OWN = ("_timestamp", "_runtime", "_wandb")


@dataclass
class WandbFile:
    """One run, or one attempt of it."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """The history, nested metrics under dotted names."""
    summary: dict[str, Any] = field(default_factory=dict)
    """When all was written; nested values under dotted names."""
    config: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    """The x axis of metrics, by name or beginning and "*"."""
    name: str = ""
    notes: str = ""
    tags: tuple[str, ...] = ()
    job_type: str = ""
    exit_code: int | None = None
    artifacts: list[tuple[str, str]] = field(default_factory=list)
    """Name and type of each."""


def read_wandb_file(directory: Path) -> WandbFile:
    """Return what the file in a W&B run directory says."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    (file,) = directory.glob("run-*.wandb")
    found = WandbFile()
    for payload in read_payloads(file):
        record = Record.FromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            found.rows.append(_flat(record.history.item))
        elif kind == "summary":
            for item in record.summary.remove:
                found.summary.pop(_key(item), None)
            for name, value in _flat(record.summary.update).items():
                _replace(found.summary, name, value)
        elif kind == "config":
            found.config |= _flat(record.config.update)
        elif kind == "run":
            found.config |= _flat(record.run.config.update)
            found.name, found.notes = record.run.display_name, record.run.notes
            found.tags, found.job_type = tuple(record.run.tags), record.run.job_type
        elif kind == "metric":
            if record.metric.step_metric:
                name = record.metric.name or record.metric.glob_name
                found.axes[name] = record.metric.step_metric
        elif kind == "artifact":
            found.artifacts.append((record.artifact.name, record.artifact.type))
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _key(item: Any) -> str:
    return ".".join(item.nested_key) or str(item.key)


def _flat(items: Any) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for item in items:
        if (name := _key(item)).split(".")[0] not in _CLIENTS_OWN:
            _put(flat, name, json.loads(item.value_json))
    return flat


def _put(flat: dict[str, Any], name: str, value: Any) -> None:
    if isinstance(value, dict):
        for inner, each in value.items():
            _put(flat, f"{name}.{inner}", each)
    else:
        flat[name] = value


def _replace(summary: dict[str, Any], name: str, value: Any) -> None:
    """Set a value; what stood for a whole mapping, or in one of that name, goes."""
    for other in list(summary):
        if name.startswith(f"{other}.") or other.startswith(f"{name}."):
            del summary[other]
    summary[name] = value
