"""Event files: their names, writing and reading one. With `media.py` all that imports tensorboard.

A file is a sequence of records (length, checksum, payload, checksum); a payload is an `Event`. We
use TensorBoard's own record writer, record reader and messages, but not its `EventFileWriter`,
whose thread opens the file anew for every record and keeps a full disk to itself.

TensorBoard reads the files of a run in the order of their names, and never goes back to one. Ours
are named after the second at which they were begun, or the first free one after that, and the
segment whose rows they hold; other people's files in the same folder are not touched.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.compat.tensorflow_stub.errors import DataLossError, OpError, OutOfRangeError
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from fasttrack.delivery.backends.tensorboard.media import media_in
from fasttrack.journal.media import MediaRow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fasttrack.delivery.contents import Held
    from fasttrack.journal.rows import Row

_NAME = re.compile(r"events\.out\.tfevents\.(\d{10})\.(segment-\d+)\.fasttrack")
_VERSION = "brain.Event:2"  # from 2 on, a step that goes back does not purge what stands before it
_BUFFER_BYTES = 2**18
_LAST_STEP = 2**63 - 1
_SINGLE = struct.Struct("<f")


def event_files(directory: Path) -> list[Path]:
    """Return our event files in `directory`, oldest first."""
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def segment_of(path: Path) -> str:
    """Return the name of the segment whose rows the event file at `path` holds."""
    found = _NAME.fullmatch(path.name)
    assert found is not None
    return f"{found[2]}.jsonl"


def _new_path(directory: Path, segment: Path) -> Path:
    second = int(time.time())
    for path in event_files(directory):
        found = _NAME.fullmatch(path.name)
        if found is not None:  # another machine's clock, or this one's, may have been ahead
            second = max(second, int(found[1]) + 1)
    return directory / f"events.out.tfevents.{second:010d}.{segment.stem}.fasttrack"


def read_rows(path: Path) -> Iterator[Held]:
    """Yield the rows that the event file at `path` holds, by TensorBoard's own record reader.

    A torn record, as a kill or a full disk leaves it, ends the file: TensorBoard reads no further
    either. Takes some 20 us a row.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        reader = PyRecordReader_New(str(path))
        while True:
            reader.GetNext()
            event = Event.FromString(reader.record())
            if _is_row(event):
                yield event.step, {value.tag: value.simple_value for value in event.summary.value}
            elif (told := media_in(event)) is not None:
                yield event.step, told
    except (OutOfRangeError, DataLossError):
        return
    except OpError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error


def as_shown(row: Row) -> Held:
    """Return a row as TensorBoard has it: its numbers have 32 bits."""
    if isinstance(row, MediaRow):
        return _event_step(row), {row.name: row.identity}
    return _event_step(row), {name: _single(value) for name, value in row.values.items()}


def _single(value: float) -> float:
    try:
        found: float = _SINGLE.unpack(_SINGLE.pack(value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return found


def _event_step(row: Row) -> int:
    return min(row.step, _LAST_STEP)


def _is_row(event: Event) -> bool:
    if event.WhichOneof("what") != "summary":
        return False
    values = event.summary.value
    return not values or values[0].WhichOneof("value") == "simple_value"


class EventFile:
    """Write one event file; every error comes from the call that it happens in.

    Threads: one at a time.
    """

    def __init__(self, directory: Path, segment: Path) -> None:
        """Begin a new file for rows of `segment`.

        Raises:
            OSError: it cannot be written.
        """
        self.path = _new_path(directory, segment)
        self._file = self.path.open("xb", buffering=_BUFFER_BYTES)
        self._flushed = False
        try:
            self._writer = RecordWriter(self._file)
            self._write(Event(wall_time=time.time(), file_version=_VERSION))
        except OSError:
            self.abandon()
            raise

    def _write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())

    def write_row(self, row: Row) -> None:
        """Write one row as one event.

        Raises:
            OSError: the disk does not take it.
        """
        event = Event(wall_time=row.time_s, step=_event_step(row))
        event.summary.SetInParent()  # a row without values is one, too
        add = event.summary.value.add
        for name, value in row.values.items():
            add(tag=name, simple_value=value)
        self._write(event)

    def write_media(self, row: MediaRow, value: Summary.Value) -> None:
        """Write what a row of media became.

        Raises:
            OSError: the disk does not take it.
        """
        self._write(
            Event(wall_time=row.time_s, step=_event_step(row), summary=Summary(value=[value]))
        )

    def write_text(self, tag: str, text: str) -> None:
        """Write Markdown for the Text tab; it replaces what stood under `tag`.

        Raises:
            OSError: the disk does not take it.
        """
        event = Event(wall_time=time.time(), step=0)
        value = event.summary.value.add(tag=tag, metadata=create_summary_metadata("", ""))
        value.tensor.dtype = DT_STRING
        value.tensor.tensor_shape.SetInParent()
        value.tensor.string_val.append(text.encode())
        self._write(event)

    def flush(self) -> None:
        """Hand everything to the system, so that TensorBoard sees it.

        Raises:
            OSError: the disk does not take it, or the file was deleted.
        """
        self._file.flush()
        here, there = os.fstat(self._file.fileno()), self.path.stat()
        if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            raise FileNotFoundError(errno.ENOENT, "another file took its place", str(self.path))
        self._flushed = True

    def close(self) -> None:
        """Flush to the disk itself, and close.

        Raises:
            OSError: the disk does not take it, or the file was deleted.
        """
        self.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close; a file that never got as far as a flush, and holds no row, is removed.

        Where a disk stays full, the files of one try after the other would pile up. Never raises.
        """
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            if not self._flushed and next(read_rows(self.path), None) is None:
                self.path.unlink()
