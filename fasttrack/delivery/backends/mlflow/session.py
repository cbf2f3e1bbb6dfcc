"""A run that is open at MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from fasttrack.delivery.backends.mlflow import client as mlflow
from fasttrack.delivery.backends.mlflow import names
from fasttrack.delivery.backends.mlflow.describing import Description, tags_from, tags_of
from fasttrack.delivery.backends.mlflow.finding import find_run, read_points, refused_names
from fasttrack.delivery.backends.mlflow.media import MediaFiles
from fasttrack.delivery.backends.read_back import ReadBack
from fasttrack.errors import ArtifactRefusedError, BackendLostError
from fasttrack.journal.media import MediaRow
from fasttrack.journal.reader import read_finish, read_header
from fasttrack.journal.run_directory import attempt, segments

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from fasttrack.delivery.backends.base import Place
    from fasttrack.delivery.backends.mlflow.client import Client, KnownRun, Point
    from fasttrack.delivery.backends.mlflow.store import Store
    from fasttrack.delivery.contents import Held
    from fasttrack.journal.entries import Artifact, Header, Page
    from fasttrack.journal.rows import Row

_MANY_POINTS = 10 * mlflow.MOST_METRICS  # more are not held back until the next check
_SIGNALLED = 128  # exit codes above it are those of signals
_LONGEST_FAULT = 200
_NOT_REMOVED: tuple[type[Exception], ...] = (*mlflow.FAULTS, NotImplementedError)


class Upload(NamedTuple):
    """Files for one folder of the run's artifacts."""

    files: Path
    folder: str
    name: str
    sizes: dict[str, int]
    """Path among the artifacts -> bytes."""


def open_session(client: Client, store: Store, header: Header, place: Place) -> MlflowSession:
    """Open the run that `header` describes, made where it is not there.

    Raises:
        BackendUnavailableError: it was deleted.
        Exception: one of `client.FAULTS`.
    """
    found = find_run(client, header, place.ledger)
    fresh = found is None
    if found is None:
        found = client.create_run(
            client.experiment(header.project, store.artifacts),
            name=header.name or header.run_id,
            began_ms=int(_began_s(header, place.run_dir) * 1000),
            tags={mlflow.RUN_ID_TAG: header.run_id},  # the rest may be refused
        )
    elif found.status != "RUNNING":
        client.reopen(found.run_id)
    return MlflowSession(client, store, header, place, found, fresh=fresh)


def _began_s(header: Header, run_dir: Path) -> float:
    first = next((read_header(path) for path in segments(run_dir)), None)
    return (first or header).time_s


class MlflowSession:
    """Add to a run of MLflow's.

    Threads: as `Session`.
    """

    held_rows = False

    def __init__(
        self,
        client: Client,
        store: Store,
        header: Header,
        place: Place,
        found: KnownRun,
        *,
        fresh: bool,
    ) -> None:
        """Go on with the run `found`, which was made just now if `fresh`."""
        self.mlflow_id = found.run_id
        self.url = store.page(found.experiment_id, found.run_id)
        self.directory = store.directory
        self.look = store.look
        self._client = client
        self._place = place
        self._fresh = fresh
        self._description = Description(found.parameters, found.tags)
        self._description.tag(tags_of(header))
        self._description.configure(header.config)
        self._refused: frozenset[str] = frozenset()
        self._back = ReadBack(place, self._read, self._kept, takes_media=True)
        self._media = MediaFiles(client, found.run_id, place)
        self._stamps = names.Stamps()
        self._points: list[Point] = []
        self._newest_s: float | None = None

    def settle(self, segments: Sequence[Path], pending: Sequence[Path]) -> list[Path]:
        """Read all of the run back. See `Session.settle`; what it takes is the store's."""
        self._refused = refused_names(self._place.ledger, segments)
        try:
            todo = self._back.settle(segments, pending, empty=self._fresh)
        except mlflow.FAULTS as error:
            raise mlflow.lost(error) from error
        self.held_rows = not self._fresh
        return todo

    def begin_segment(self, path: Path) -> None:
        """Count its rows from the first. See `Session.begin_segment`."""
        self._back.begin_segment(path)
        self._stamps = names.Stamps()

    def log(self, rows: Sequence[Row]) -> bool:
        """Hold rows back until the next `check`, if there are not too many. See `Session.log`."""
        before = len(self._points)
        is_full = False
        for row in rows:
            if isinstance(row, MediaRow):
                is_full = self._media.take(row)
            stamp_ms = self._stamps.of(row)
            self._newest_s = row.time_s
            if (lacking := self._back.lacking(row)) is not None:
                step = min(lacking.step, names.LAST_STEP)
                self._points += [
                    mlflow.Point(name, value, stamp_ms, step)
                    for name, value in lacking.values.items()
                ]
        added = len(self._points) > before
        if len(self._points) >= _MANY_POINTS or is_full:
            self._send()
        return added

    def console(self, stream: str, text: str) -> None:
        """Pass over: MLflow has no place for it. See `Session.console`."""

    def configure(self, values: Mapping[str, Any]) -> None:
        """Add parameters with the next `check`. See `Session.configure`."""
        self._description.configure(values)

    def describe(self, page: Page) -> None:
        """Show a name, notes and tags. See `Describable.describe`."""
        self._description.tag(tags_from(page.tags))
        if page.notes is not None:
            self._description.tag({"mlflow.note.content": page.notes})
        if page.name is not None:
            try:
                self._client.rename(self.mlflow_id, page.name)
            except mlflow.FAULTS as error:
                raise mlflow.lost(error) from error

    def summarize(self, summary: Mapping[str, object]) -> None:
        """Pass over: MLflow shows metrics as they are. See `Describable.summarize`."""

    def prepare_artifact(self, entry: Artifact, files: Path) -> Upload:
        """List the files. See `Session.prepare_artifact`.

        The folder is `<type>/<name>/<attempt>.<number>`: MLflow's files have no versions.
        """
        number = f"{attempt(files.parents[1])}.{entry.number}"  # artifacts/<segment>/<number>/files
        folder = f"{names.name_for(entry.type)}/{names.name_for(entry.name)}/{number}"
        sizes = {
            f"{folder}/{path.relative_to(files)}": path.stat().st_size
            for path in sorted(files.rglob("*"))
            if path.is_file()
        }
        return Upload(files, folder, entry.name, sizes)

    def upload(self, artifact: Upload, aliases: Sequence[str]) -> str | None:
        """Upload, and have the store list what it has. See `Session.upload`.

        Each alias is a tag, `<name>.<alias>`, with the folder that it is for now.
        """
        try:
            self._client.upload(self.mlflow_id, artifact.files, artifact.folder)
            found = self._client.sizes(self.mlflow_id, artifact.folder)
            tags = {
                names.name_for(f"{artifact.name}.{alias}"): artifact.folder for alias in aliases
            }
            self._client.set_tags(self.mlflow_id, tags)
        except mlflow.FAULTS as error:
            if mlflow.refused(error):
                raise ArtifactRefusedError(str(mlflow.lost(error))) from error
            raise mlflow.lost(error) from error
        except ImportError as error:  # the client of a bucket that the server keeps files in
            raise ArtifactRefusedError(f"MLflow: {error}") from error
        wrong = [path for path, size in artifact.sizes.items() if found.get(path) != size]
        if wrong:
            raise BackendLostError(f"MLflow has not all of {artifact.folder}: {', '.join(wrong)}")
        return f"{artifact.folder}: {len(artifact.sizes)} files listed with their sizes"

    def withdraw(self, artifact: Upload) -> None:
        """Remove the folder. See `Session.withdraw`."""
        try:
            self._client.remove(self.mlflow_id, artifact.folder)
        except _NOT_REMOVED as error:
            raise mlflow.lost(error) from error

    def uploaded_bytes(self) -> int | None:
        """Return None: the client does not tell. See `Session.uploaded_bytes`."""
        return None

    def check(self) -> bool:
        """Send what was held back. See `Session.check`; MLflow knows no button to stop a run."""
        self._send()
        return False

    def finish(self, *, exit_code: int, preempting: bool) -> None:
        """Send what was held back, and end the run. See `Session.finish`.

        It is FINISHED, FAILED or, where a signal ended it or it is to go on elsewhere, KILLED.
        """
        self._send()
        if not self._place.tells_the_end():
            return
        status = "FINISHED" if exit_code == 0 else "FAILED"
        if preempting or exit_code > _SIGNALLED or exit_code < 0:
            status = "KILLED"
        try:
            self._client.end(self.mlflow_id, status, int(self._ended_s() * 1000))
        except mlflow.FAULTS as error:
            raise mlflow.lost(error) from error

    def prove(self, *, artifacts: int, timeout_s: float) -> str:
        """Read all of the run back. See `Session.prove`; what it takes is the store's."""
        try:
            proof = self._back.prove(f"MLflow's run {self.mlflow_id}")
            return "; ".join((proof, *self._media.proof()))
        except mlflow.FAULTS as error:
            raise mlflow.lost(error) from error

    def _read(self) -> Iterator[Held]:
        return read_points(self._client, self.mlflow_id)

    def _kept(self, row: Row) -> Held:
        return names.kept(row, self._refused)

    def _ended_s(self) -> float:
        finish = None if self._back.segment is None else read_finish(self._back.segment)
        if finish is not None and finish.time_s:
            return finish.time_s
        return self._newest_s if self._newest_s is not None else self._place.clock()

    def _send(self) -> None:
        try:
            self._send_description()
            for batch in mlflow.batches(self._points):
                self._send_points(batch)
            self._points = []
            self._media.send()
        except mlflow.FAULTS as error:
            raise mlflow.lost(error) from error

    def _send_points(self, points: Sequence[Point]) -> None:
        """Send values; of those that are refused find the metric, which is then left out."""
        try:
            self._client.log_points(self.mlflow_id, points)
        except mlflow.FAULTS as error:
            if not mlflow.refused(error):
                raise
            if len(points) > 1:
                half = len(points) // 2
                self._send_points(points[:half])
                self._send_points(points[half:])
            elif points[0].name not in self._refused:
                self._refuse(points[0], str(error))

    def _refuse(self, point: Point, why: str) -> None:
        assert self._back.segment is not None
        self._refused |= {point.name}
        told = f"from step {point.step} on: {why.strip()[:_LONGEST_FAULT]}"
        self._place.ledger.segment(self._back.segment.name).refused[point.name] = told
        self._place.save()

    def _send_description(self) -> None:
        description = self._description
        for what, send, values in (
            ("parameters", self._client.log_parameters, description.new_parameters),
            ("tags", self._client.set_tags, description.new_tags),
        ):
            try:
                send(self.mlflow_id, values)
            except mlflow.FAULTS as error:
                if not mlflow.refused(error):
                    raise
                self._place.leave_out(f"{what}: {str(mlflow.lost(error))[:_LONGEST_FAULT]}")
        description.note_written()
