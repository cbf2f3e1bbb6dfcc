"""How the processes that sample nodes find the run, whose id is made where it is recorded.

Through torch.distributed's key-value store, on a connection of its own and without a collective;
without a process group through a small file beside the runs, if all are processes of one Slurm job;
or by the run's id, where every rank was given it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrack.context.group_store import group_store
from fasttrack.context.job_runs import current_job
from fasttrack.context.stores import own_connection
from fasttrack.journal.run_directory import segments

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_trackers = itertools.count()  # of this process that sample nodes, in order: alike on all ranks
_CLOCKS_S = 600.0  # by which clocks, and the starts of a job's processes, may differ
_LONGEST_HEADER_BYTES = 2**24
_OVER = "over"
_FINISH_BYTES, _FINISH_START = 512, b'{"kind":"finish"'  # more than such a line takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What is told of an attempt of a run."""

    segment: str
    """The file that its rows go to: an absolute path where they are recorded."""
    proof: str
    """Tells whether a file of that name is this one."""
    interval_s: float
    """How often nodes are sampled."""
    time_s: float
    """When it was made: unix time."""
    by_id: bool = False
    """Whether nobody told it: it was found by the run's id, and may be another attempt's."""

    def encode(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self))


def decode(text: str | bytes) -> Announcement | None:
    """Return what `encode` made the text of; None: it is none."""
    try:
        return Announcement(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _write(path: Path, text: str) -> None:
    """Write a file in the place of what is there, readable by its owner only."""
    scratch = path.with_suffix(".tmp")
    with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(text.encode())
    scratch.replace(path)


def proof_of(segment: Path) -> str | None:
    """Return what only this very file has, by its first line; None: it is not there, or empty."""
    try:
        with segment.open("rb") as file:
            line = file.readline(_LONGEST_HEADER_BYTES)
    except OSError:
        return None
    return hashlib.sha256(line).hexdigest() if line.endswith(b"\n") else None


def has_ended(segment: Path) -> bool:
    """Return whether an attempt is over: its last line says so, it is gone, or another has begun.

    Reads very little.
    """
    try:
        with segment.open("rb", buffering=0) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _FINISH_BYTES))
            *_, last, torn = (b"\n" + file.read()).split(b"\n")
    except OSError:
        return True
    return (not torn and last.startswith(_FINISH_START)) or segments(segment.parent)[-1:] != [
        segment
    ]


class Meeting:
    """Where the processes that sample for one run meet. What the store raises, it raises.

    Threads: made on the one that makes the tracker; all else on one other.
    """

    def __init__(self, runs_directory: Path, run_id: str | None, began_s: float) -> None:
        """Agree on a place with the other processes. Asks nobody yet.

        Args:
            runs_directory: `wandb/fasttrack`, as this process has it.
            run_id: the run's, where it was given to all.
            began_s: unix time at which this tracker was made.
        """
        number = next(_trackers)
        self._key = f"nodes/{number}"
        job = current_job()
        name = "" if job is None else f"{job.key}-{job.start[0]}-{job.start[1]}-{number}.json"
        self._file = runs_directory / ".jobs" / name if name else None
        self._given = None if run_id is None else runs_directory / run_id
        self.runs_directory = runs_directory
        self._noted = False  # whether the file is this run's
        self._began_s = began_s
        self._store: Any = None
        self._number: int | None = None  # of this sender, in the store
        self._numbers: dict[int, int] = {}  # of the last message, by sender

    @property
    def has_store(self) -> bool:
        """Whether this process has a process group now, with a name, and so a store."""
        store = group_store()
        if store is None:  # its server may have gone with the group
            return False
        if self._store is None:
            self._store = own_connection(store)
        return True

    # --- where the run is recorded ------------------------------------------------------------

    def announce(self, told: Announcement) -> bool:
        """Tell the others of the run; return whether the store has it: else call again."""
        if self._file is not None and not self._noted:
            with contextlib.suppress(OSError):  # then there is still the store
                self._file.parent.mkdir(parents=True, exist_ok=True)
                _write(self._file, told.encode())  # also where a run that was killed has left one
                self._noted = True
        if not self.has_store:
            return False
        self._store.set(self._key, told.encode())
        return True

    def receive(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield each new message that was sent, and how many were lost before it."""
        if not self.has_store:
            return
        for sender in range(1, self._store.add(f"{self._key}/senders", 0) + 1):
            key = f"{self._key}/sender/{sender}"
            if not self._store.check([key]):
                continue
            try:
                message = json.loads(self._store.get(key))
                number = int(message["number"])
            except (ValueError, TypeError, KeyError):
                continue
            before = self._numbers.get(sender, -1)
            if number > before:
                self._numbers[sender] = number
                yield message, number - before - 1

    def end(self) -> None:
        """Tell the others that the run is over."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink()
        if self.has_store:
            self._store.set(self._key, _OVER)

    # --- elsewhere ----------------------------------------------------------------------------

    def find(self, known: Collection[str] = ()) -> Announcement | None:
        """Return what is told of the run; None: nothing yet. Waits for nobody.

        Args:
            known: segments that are not looked for.
        """
        if self.has_store and self._store.check([self._key]):
            found = decode(self._store.get(self._key))
            if found is not None:
                return found
        if self._file is not None:
            with contextlib.suppress(OSError):
                found = decode(self._file.read_bytes())
                if found is not None and found.time_s > self._began_s - _CLOCKS_S:
                    return found
        return self._of_given(known)

    @property
    def over(self) -> bool:
        """Whether the run is known to be over, or nothing can be sent to it any more."""
        return not self.has_store or bool(self._store.get(self._key) == _OVER.encode())

    def send(self, message: dict[str, Any], number: int) -> None:
        """Send a message, which takes the place of the one before.

        Args:
            message: what to send.
            number: of the message, from 0.
        """
        if not self.has_store:
            raise RuntimeError("the process group was destroyed")
        if self._number is None:
            self._number = self._store.add(f"{self._key}/senders", 1)
        text = json.dumps({**message, "number": number}, separators=(",", ":"))
        self._store.set(f"{self._key}/sender/{self._number}", text)

    def _of_given(self, known: Collection[str]) -> Announcement | None:
        """Return what the directory of the run tells whose id was given."""
        taken = [] if self._given is None else segments(self._given)
        if not taken or str(taken[-1]) in known or has_ended(taken[-1]):
            return None
        try:
            with taken[-1].open("rb") as file:
                time_s = float(json.loads(file.readline(_LONGEST_HEADER_BYTES))["time"])
        except (OSError, ValueError, TypeError, KeyError):
            return None
        proof = proof_of(taken[-1])
        if proof is None or time_s < self._began_s - _CLOCKS_S:  # an earlier attempt's
            return None
        return Announcement(
            segment=str(taken[-1]), proof=proof, interval_s=0.0, time_s=time_s, by_id=True
        )
