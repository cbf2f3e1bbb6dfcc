"""`wandb.Artifact`: files under one name, put together before they are logged."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fasttrack.wandb.said import lose, say_once
from fasttrack.wandb.unknown import Inert, careful, named

if TYPE_CHECKING:
    from collections.abc import Iterator


class Artifact:
    """Files, each linked to where it lies; their contents are taken when the artifact is logged.

    Threads: one at a time.
    """

    def __init__(
        self,
        name: str,
        type: str,
        description: str | None = None,
        metadata: dict[str, Any] | None = None,
        **further: Any,
    ) -> None:
        """Begin empty."""
        self.name = str(name)
        self.type = str(type)
        self.description = description
        self.metadata = dict(metadata or {})
        self.aliases: list[str] = []
        self.directory = Path(tempfile.mkdtemp(prefix="fasttrack-"))
        """Where its files are linked, as long as the artifact is there."""
        weakref.finalize(self, shutil.rmtree, self.directory, ignore_errors=True)
        if metadata or description:
            say_once("metadata", "an artifact's description and metadata are not kept")

    @careful
    def add_file(self, local_path: Any, name: str | None = None, **further: Any) -> None:
        """Add a file, under its own name if none is given."""
        path = Path(local_path)
        if path.is_file():
            self._link(path, name or path.name)
        else:
            lose("Artifact.add_file", f"{str(path)!r} is no file", "the call was ignored")

    @careful
    def add_dir(self, local_path: Any, name: str | None = None, **further: Any) -> None:
        """Add a directory: as `name`, or what it holds."""
        path = Path(local_path)
        if name:
            self._link(path, name)
            return
        for inner in sorted(path.iterdir()):
            self._link(inner, inner.name)

    @contextmanager
    def new_file(self, name: str, mode: str = "w", **further: Any) -> Iterator[IO[Any]]:
        """Open a new file in the artifact."""
        with open(self._place(name), mode) as file:
            yield file

    def add_reference(self, uri: Any, *args: Any, **further: Any) -> None:
        """Say that references are not kept."""
        lose("Artifact.add_reference", f"{str(uri)!r} is a reference", "not kept")

    def add(self, obj: Any, name: str, *args: Any, **further: Any) -> Any:
        """Say that tables and media in artifacts are not kept."""
        lose("Artifact.add", f"{name!r} is a {type(obj).__name__}, and no file", "not kept")
        return Inert()

    def wait(self, *args: Any, **further: Any) -> Artifact:
        """Return at once: uploading is delivery's."""
        return self

    def _link(self, path: Path, name: str) -> None:
        place = self._place(name)
        place.unlink(missing_ok=True)
        place.symlink_to(path.absolute())

    def _place(self, name: str) -> Path:
        inside = os.path.normpath(f"/{name}").lstrip("/")  # never above the folder
        place = self.directory / inside
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def __getattr__(self, name: str) -> Any:
        return named(f"wandb.Artifact.{name}", name)
