"""The file in which a node tells of its hardware, in the run's directory.

`node-<node>-0001.jsonl`, by the run's attempt: JSON objects, one a line, for `jq` and the like. The
first, of kind "node", says who writes and what does not change. Those of kind "sample" have `time`
(unix seconds), `host` (name -> number) and `gpus`, a list of such; kind "lost" tells how many
samples did not get here, kind "end" why there are no more.

It is opened for each line, and closed: so do network file systems show it to others soon.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

FORMAT_VERSION = 1
_READ_BYTES = 2**20  # at a time
_LONGEST_LINE_BYTES = 2**20


class NodeFile:
    """Write one node's file.

    Threads: one at a time.
    """

    def __init__(self, path: Path, first: dict[str, Any]) -> None:
        """Begin the file with its first line.

        Raises:
            FileExistsError: another process of this node has done so.
            OSError: it cannot be written.
        """
        self.path = path
        self._torn = False
        self._write(first, os.O_CREAT | os.O_EXCL)

    def add(self, line: dict[str, Any]) -> None:
        """Append a line.

        Raises:
            OSError: it cannot be written: the disk is full, or the run's directory gone.
        """
        self._write(line, 0)

    def _write(self, line: dict[str, Any], how: int) -> None:
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        if self._torn:  # what is there of the last one is a line of its own, and no JSON
            data = b"\n" + data
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | how, 0o600)
        try:
            self._torn = os.write(file, data) < len(data)
        finally:
            os.close(file)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a node was seen to do."""

    time_s: float
    """Unix time, by the node's clock."""
    host: dict[str, float]
    gpus: list[dict[str, float]] = field(default_factory=list)

    def as_line(self) -> dict[str, Any]:
        """Return it as it is written."""
        return {"kind": "sample", "time": self.time_s, "host": self.host, "gpus": self.gpus}


class NodeReader:
    """Read one node's file, also while it grows.

    Threads: one at a time.
    """

    def __init__(self, path: Path) -> None:
        """Begin at its start."""
        self._path = path
        self._place = 0
        self.bad_lines = 0
        self.ended = False
        """Whether the last line that was read says that there are no more."""

    def read(self) -> list[Sample]:
        """Return the samples that were written since the last call, at most some hundreds.

        Raises:
            OSError: it cannot be read.
        """
        with self._path.open("rb", buffering=0) as file:
            file.seek(self._place)
            data = file.read(_READ_BYTES)
        whole, newline, torn = data.rpartition(b"\n")
        if not newline:
            if len(torn) >= _LONGEST_LINE_BYTES:  # no line of ours
                self._place += len(torn)
                self.bad_lines += 1
            return []
        self._place += len(whole) + 1
        samples = []
        for line in whole.split(b"\n"):
            try:
                told = json.loads(line)
                found = _sample_of(told)
            except (ValueError, TypeError, KeyError, AttributeError):
                self.bad_lines += 1
                continue
            self.ended = told["kind"] == "end"
            if found is not None:
                samples.append(found)
        return samples


def _sample_of(line: Any) -> Sample | None:
    """Return the sample that a line holds; None: it is of another kind.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is none of ours.
    """
    if line["kind"] != "sample":
        return None
    return Sample(float(line["time"]), _numbers(line["host"]), [*map(_numbers, line["gpus"])])


def _numbers(values: Any) -> dict[str, float]:
    if any(type(value) not in (int, float) for value in values.values()):
        raise ValueError("a value is no number")
    return dict(values)
