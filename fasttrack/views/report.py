"""What is known of a run, as values: a line of `fasttrack runs`, and all that `show` tells."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import orjson

from fasttrack.goodput import read_goodput
from fasttrack.journal.entries import Artifact, Config, Header, Metadata, encode
from fasttrack.journal.media import MediaRow
from fasttrack.journal.rows import Row
from fasttrack.journal.run_directory import media_directory
from fasttrack.runs.alerts import RunAlert, read_alerts
from fasttrack.runs.flights import FlightDump, read_flights
from fasttrack.runs.media import MediaOfKind, logged_media
from fasttrack.runs.ranks import RanksHealth, RanksReading
from fasttrack.runs.status import DeliveryStatus, RunStatus, find_delivery, find_status
from fasttrack.runs.summary import Summary
from fasttrack.runs.verdict import judge_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fasttrack.goodput import Goodput
    from fasttrack.runs.local import LocalRun
    from fasttrack.runs.status import BackendDelivery, SegmentDelivery
    from fasttrack.runs.verdict import Verdict

_METRIC_FIELDS = ("count", "non_finite", "last", "min", "max")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What is known of a run without reading its rows."""

    run_id: str
    name: str | None
    project: str | None
    entity: str | None
    status: RunStatus
    started_s: float
    delivery: DeliveryStatus
    directory: str

    def as_json(self) -> dict[str, object]:
        """Return what `fasttrack runs --json` prints of a run."""
        delivery = self.delivery
        return {
            "run_id": self.run_id,
            "name": self.name,
            "project": self.project,
            "entity": self.entity,
            "state": self.status.word,
            "exit_code": self.status.exit_code,
            "rows": delivery.rows,
            "attempts": len(delivery.segments),
            "started": self.started_s,
            "delivered": delivery.word,
            "proofs": delivery.proofs,
            "url": delivery.url,
            "backends": {one.backend: _backend_as_json(one) for one in delivery.backends},
            "directory": self.directory,
        }


def _backend_as_json(backend: BackendDelivery) -> dict[str, object]:
    return {
        "delivered": backend.word,
        "proofs": backend.proofs,
        "url": backend.url,
        "directory": backend.directory,
    }


def read_overview(run: LocalRun) -> Overview:
    """Return what is known of `run`. Counts its rows without parsing them.

    Raises:
        OSError: a segment cannot be read.
    """
    return Overview(
        run_id=run.run_id,
        name=run.name,
        project=run.project,
        entity=None if run.header is None else run.header.entity,
        status=find_status(run),
        started_s=run.started_s,
        delivery=find_delivery(run),
        directory=str(run.directory.absolute()),
    )


@dataclass(frozen=True, slots=True)
class LoggedArtifact:
    """Files that a run has logged."""

    attempt: int
    artifact: Artifact
    delivery: str | None
    """What proves that they have arrived, or why they never will; None: they have not."""

    def as_json(self) -> dict[str, object]:
        """Return what `fasttrack show --json` prints of it."""
        told = orjson.loads(encode(self.artifact))
        del told["kind"]
        return {"attempt": self.attempt, **told, "delivery": self.delivery}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that is known of a run."""

    overview: Overview
    header: Header | None
    """None where it is damaged."""
    metadata: Metadata | None
    config: dict[str, object]
    """The user's, of all attempts together."""
    artifacts: list[LoggedArtifact]
    media: dict[str, MediaOfKind]
    """Kind ("image", "table", ...) -> how many, and the newest."""
    alerts: list[RunAlert]
    goodput: Goodput
    flights: list[FlightDump]
    """The dumps of the flight recorder, oldest first."""
    ranks: RanksHealth | None
    """How it stands with the ranks; None where the run does not tell of all."""
    metrics: dict[str, Summary]
    bad_lines: int
    """How many damaged lines were left out."""
    damage: list[str]
    """The first of them, by file and number, and why."""

    @property
    def verdict(self) -> Verdict | None:
        """What bounds the run's speed; None where that was not measured."""
        ranks = 1 if self.header is None else self.header.world_size
        return judge_run(self.metrics, ranks, self.ranks)

    def as_json(self) -> dict[str, object]:
        """Return what `fasttrack show --json` prints."""
        delivery = self.overview.delivery
        return {
            **self.overview.as_json(),
            "backends": {
                one.backend: {**_backend_as_json(one), "segments": _segments_as_json(one.segments)}
                for one in delivery.backends
            },
            "header": {} if self.header is None else orjson.loads(encode(self.header)),
            "metadata": None if self.metadata is None else self.metadata.values,
            "config": self.config,
            "artifacts": [artifact.as_json() for artifact in self.artifacts],
            "media": {kind: found.as_json() for kind, found in self.media.items()},
            "alerts": [alert.as_json() for alert in self.alerts],
            "flights": [flight.as_json() for flight in self.flights],
            "segments": _segments_as_json(delivery.segments),
            "offline_directories": delivery.offline_directories,
            "bad_lines": self.bad_lines,
            "damage": self.damage,
            "goodput": self.goodput.as_json(),
            "ranks": None if self.ranks is None else asdict(self.ranks),
            "verdict": None if self.verdict is None else asdict(self.verdict),
            "metrics": {
                name: {field: getattr(summary, field) for field in _METRIC_FIELDS}
                for name, summary in self.metrics.items()
            },
        }


def _segments_as_json(segments: tuple[SegmentDelivery, ...]) -> list[dict[str, object]]:
    return [
        {
            "attempt": segment.attempt,
            "rows": segment.rows,
            "server": segment.proof,
            "offline": segment.offline_proof,
        }
        for segment in segments
    ]


def read_report(run: LocalRun) -> Report:
    """Return all that is known of `run`. Reads all rows, keeps none.

    Raises:
        OSError: a segment cannot be read.
    """
    overview = read_overview(run)
    metadata: Metadata | None = None
    config: dict[str, object] = {}
    artifacts: list[LoggedArtifact] = []
    media: dict[str, MediaOfKind] = {}
    media_folder = media_directory(run.directory)
    metrics: dict[str, Summary] = {}
    ranks = RanksReading()
    for attempt, entry in run.entries():
        ranks.take(entry)
        match entry:
            case MediaRow():
                count = media[entry.type].count if entry.type in media else 0
                newest = logged_media(entry, attempt, media_folder)
                media[entry.type] = MediaOfKind(count + 1, newest)
            case Row():
                for name, value in entry.values.items():
                    metrics.setdefault(name, Summary()).add(value)
            case Metadata():
                metadata = entry
            case Config():
                config.update(entry.values)
            case Header():
                config.update(entry.config)
            case Artifact():
                proof = overview.delivery.artifact(attempt, entry.number)
                artifacts.append(LoggedArtifact(attempt, entry, proof))
    return Report(
        overview=overview,
        header=run.header,
        metadata=metadata,
        config=config,
        artifacts=artifacts,
        media=media,
        alerts=read_alerts(run.directory),
        goodput=read_goodput(run.segments),
        flights=read_flights(run.directory),
        ranks=ranks.health(),
        metrics=metrics,
        bad_lines=run.bad_lines,
        damage=[str(damage) for damage in run.damage],
    )


def flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return nested mappings as one, its keys joined by dots, as W&B shows them."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
