"""Where a run's files lie: every name in a run's directory stands here, once.

{WANDB_DIR or .}/wandb/fasttrack/<run id>/
segment-0001.jsonl      the journal, one segment per attempt of the run
cursor.json             what is delivered, and what proves it
meanwhile.json          the same, of what was delivered beside an offline run that goes on
alerts.json             what was worth an alert, and who has been told
alerts-state.json       what whoever decides that knows of the rows so far
courier.lock            held by whoever delivers the run
destination.lock        held by whoever sends rows of it to a destination
delivery.log            what the delivery process had to say
client/                 what a client needs on disk while it delivers
meanwhile/              the same, of a delivery beside an offline run that goes on
stop-0001               while attempt 1 listens: written into, it asks the program to stop
node-<node>-0001.jsonl  what a node of attempt 1 tells of its hardware
flight-0001-1.jsonl     the last steps at full rate: the first dump of attempt 1
media/                  pictures, sound and tables that were logged, each once, by its hash
artifacts/segment-0001/0001/
files/...           what shall be uploaded
manifest.json       path -> [size in bytes, modification time in ns, inode]
copy.tmp            the file that is being copied
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from fasttrack.handler_errors import is_handlers

_SEGMENT = re.compile(r"segment-\d+\.jsonl")
_NODE = re.compile(r"node-([A-Za-z0-9_-]+)-(\d+)\.jsonl")
_FLIGHT = re.compile(r"flight-\d+-\d\.jsonl")
_PARENTS = ("wandb", "fasttrack")


def run_directory(base: Path, run_id: str) -> Path:
    """Return the directory of run `run_id` under `base`, the parent of `wandb/`."""
    return base.joinpath(*_PARENTS, run_id)


def base_directory(run_dir: Path) -> Path:
    """Return the parent of `wandb/`; a run that was copied out of such a tree is its own."""
    parents = run_dir.resolve().parents
    in_tree = len(parents) > 2 and (parents[1].name, parents[0].name) == _PARENTS
    return parents[2] if in_tree else run_dir.resolve()


def segment_name(number: int) -> str:
    """Return the file name of a run's attempt `number`, counted from 1."""
    return f"segment-{number:04d}.jsonl"


def segments(run_dir: Path) -> list[Path]:
    """Return the segments in `run_dir`, oldest attempt first."""
    return sorted(_files(run_dir, _SEGMENT), key=attempt)


def _files(run_dir: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Return the files in `run_dir` whose names match; none where it cannot be read."""
    try:
        names = os.listdir(run_dir)
    except OSError as error:
        if is_handlers(error):
            raise
        return []
    return [run_dir / name for name in names if pattern.fullmatch(name)]


def attempt(segment: Path) -> int:
    """Return the number of the attempt that wrote `segment`."""
    return int(segment.stem.split("-")[1])


def cursor_path(run_dir: Path) -> Path:
    """Return the file that says what is delivered."""
    return run_dir / "cursor.json"


def meanwhile_cursor_path(run_dir: Path) -> Path:
    """Return the file that says what is delivered beside an offline run that goes on."""
    return run_dir / "meanwhile.json"


def alerts_path(run_dir: Path) -> Path:
    """Return the file that holds the run's alerts."""
    return run_dir / "alerts.json"


def alerts_state_path(run_dir: Path) -> Path:
    """Return the file from which the next process goes on to watch the run's rows."""
    return run_dir / "alerts-state.json"


def lock_path(run_dir: Path) -> Path:
    """Return the file that whoever delivers the run holds a lock on."""
    return run_dir / "courier.lock"


def destination_lock_path(run_dir: Path) -> Path:
    """Return the file that whoever sends rows to a run's destinations holds a lock on."""
    return run_dir / "destination.lock"


def log_path(run_dir: Path) -> Path:
    """Return the delivery process's log."""
    return run_dir / "delivery.log"


def stop_path(segment: Path) -> Path:
    """Return the file by which the attempt that writes `segment` is asked to stop."""
    return segment.parent / f"stop-{attempt(segment):04d}"


def node_path(segment: Path, node: str) -> Path:
    """Return the file in which a node tells the attempt that writes `segment` of its hardware."""
    return segment.parent / f"node-{node}-{attempt(segment):04d}.jsonl"


def node_names(segment: Path) -> list[str]:
    """Return the nodes that tell of their hardware to the attempt that writes `segment`.

    Raises:
        OSError: the directory cannot be read.
    """
    found = map(_NODE.fullmatch, os.listdir(segment.parent))
    number = attempt(segment)
    return sorted(each[1] for each in found if each is not None and int(each[2]) == number)


def flight_path(segment: Path, number: int) -> Path:
    """Return the file of a dump of the last steps, by the attempt that writes `segment`."""
    return segment.parent / f"flight-{attempt(segment):04d}-{number}.jsonl"


def flights(run_dir: Path) -> list[Path]:
    """Return the dumps of the last steps in `run_dir`, oldest first."""
    return sorted(_files(run_dir, _FLIGHT))


def client_directory(run_dir: Path) -> Path:
    """Return the folder for what a destination's client needs on disk while it delivers."""
    return run_dir / "client"


def meanwhile_directory(run_dir: Path) -> Path:
    """Return the folder for what a client needs that delivers beside an offline run's own."""
    return run_dir / "meanwhile"


def media_directory(run_dir: Path) -> Path:
    """Return the folder of what was logged and is no number."""
    return run_dir / "media"


def artifacts_directory(run_dir: Path) -> Path:
    """Return the folder in which all attempts stage their files."""
    return run_dir / "artifacts"


def staging_directory(segment: Path) -> Path:
    """Return where the attempt that writes `segment` stages its files."""
    return artifacts_directory(segment.parent) / segment.stem


def staged_directory(segment: Path, number: int) -> Path:
    """Return where the attempt that writes `segment` stages its artifact `number`."""
    return staging_directory(segment) / f"{number:04d}"


def files_directory(staged: Path) -> Path:
    """Return the folder of a staged artifact's files themselves."""
    return staged / "files"


def manifest_path(staged: Path) -> Path:
    """Return the file that says what a staged artifact's files were when they were staged."""
    return staged / "manifest.json"


def scratch_path(staged: Path) -> Path:
    """Return the file that a staged artifact's next file is copied to."""
    return staged / "copy.tmp"
