"""What a run holds beside numbers: which pictures, tables and sounds, and where their files are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fasttrack.journal.entries import entry_of
from fasttrack.journal.media import MediaRow
from fasttrack.journal.rows import MEDIA_START
from fasttrack.journal.run_directory import attempt, media_directory, segments

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedMedia:
    """One call of `log_media`, as it was kept."""

    name: str
    """What it was logged as."""
    step: int
    kind: str
    """"image", "histogram", "table", "audio", "html", "text" or "video"."""
    time_s: float
    """When, in unix time."""
    attempt: int
    """The attempt of the run that logged it, from 1."""
    paths: tuple[Path, ...]
    """Its files, which may have been deleted: PNG or what was given of a picture, WAV or what was
    given of sound, JSON (`columns` and `data`) of a table; one for each picture or sound of a list.
    A histogram has none."""
    captions: tuple[str | None, ...] = ()
    """One for each path; empty where none has one."""
    counts: tuple[float, ...] = ()
    """A histogram's."""
    bins: tuple[float, ...] = ()
    """Its edges, one more."""

    @property
    def path(self) -> Path | None:
        """The first of its files; None where it has none."""
        return self.paths[0] if self.paths else None


@dataclass(frozen=True, slots=True)
class MediaOfKind:
    """How much of one kind a run holds."""

    count: int
    """How many calls logged it."""
    newest: LoggedMedia

    def as_json(self) -> dict[str, object]:
        """Return what `fasttrack show --json` prints of it."""
        newest = self.newest
        return {
            "count": self.count,
            "name": newest.name,
            "step": newest.step,
            "attempt": newest.attempt,
            "time": newest.time_s,
            "files": [str(path) for path in newest.paths],
        }


def media_of(run_dir: Path) -> Iterator[LoggedMedia]:
    """Yield the media of a run, in order, as far as they are written by now.

    Lines that are no media are passed over unread, about a gigabyte a second.

    Raises:
        OSError: a segment cannot be read.
    """
    folder = media_directory(run_dir)
    for path in segments(run_dir):
        with path.open("rb") as file:
            for line in file:
                if not line.startswith(MEDIA_START) or not line.endswith(b"\n"):
                    continue
                entry = entry_of(line)
                if isinstance(entry, MediaRow):
                    yield logged_media(entry, attempt(path), folder)


def logged_media(row: MediaRow, number: int, folder: Path) -> LoggedMedia:
    """Return what a line of attempt `number` says; its files are in `folder`."""
    about: dict[str, Any] = row.about
    return LoggedMedia(
        name=row.name,
        step=row.step,
        kind=row.type,
        time_s=row.time_s,
        attempt=number,
        paths=tuple(folder / name for name in row.files),
        captions=tuple(about.get("captions", ())),
        counts=tuple(about.get("counts", ())),
        bins=tuple(about.get("bins", ())),
    )
