"""What the tests of delivery share: a trainer that is only its journal, and a clock to be moved."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from fasttrack.delivery.backends.memory import MemoryBackend, MemoryDestination
from fasttrack.delivery.run_delivery import RunDelivery
from fasttrack.journal.entries import Artifact, Config, Console, Finish, Header, Metadata, encode
from fasttrack.journal.rows import encode_row
from fasttrack.journal.run_directory import files_directory, staged_directory
from fasttrack.journal.writer import SegmentWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fasttrack.delivery.backends.base import Backend, Place
    from fasttrack.delivery.events import Event

BEGAN_S = 1_000_000.0
_MOST_PAUSES = 100_000  # more is a delivery that never ends


class ManualClock:
    """Unix time that only pauses move; what is due is done on the way."""

    def __init__(self) -> None:
        """Begin at `BEGAN_S`."""
        self.now_s = BEGAN_S
        self._pauses = 0
        self._due: list[tuple[float, Callable[[], object]]] = []

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        """Do `action` so many seconds after the beginning."""
        self._due.append((BEGAN_S + seconds, action))
        self._due.sort(key=lambda due: due[0])

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        self._pauses += 1
        assert self._pauses < _MOST_PAUSES, "delivery waits for ever"
        if any(thread.name == "uploads" for thread in threading.enumerate()):
            time.sleep(1e-4)  # that thread has real work to do, which takes real time
        self.now_s += seconds
        while self._due and self._due[0][0] <= self.now_s:
            self._due.pop(0)[1]()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return self.now_s - BEGAN_S


class Trainer:
    """One attempt of a run, as delivery sees it: a growing segment, and whether it is alive."""

    def __init__(self, run_dir: Path, clock: ManualClock, **header: Any) -> None:
        """Begin a segment."""
        given: dict[str, Any] = {"run_id": run_dir.name, "time_s": clock(), "mode": "online"}
        self.clock = clock
        self.run_dir = run_dir
        self.writer = SegmentWriter(run_dir, Header(**{**given, **header}))
        self.alive = True
        self._seq = 0

    def log(self, *steps: int) -> None:
        """Log a row at each of `steps`, whose value is the step."""
        for step in steps:
            values = {"a": float(step)}
            self.writer.append([encode_row(self._seq, step, self.clock(), values)])
            self._seq += 1

    def log_wide(self, rows: int, metrics: int) -> None:
        """Log rows of many metrics each."""
        values = {f"metric/{number}": number / 7 for number in range(metrics)}
        for _ in range(rows):
            self.writer.append([encode_row(self._seq, self._seq, self.clock(), values)])
            self._seq += 1

    def say(self, text: str) -> None:
        """Print."""
        self.writer.append([encode(Console("stdout", text))])

    def configure(self, **values: Any) -> None:
        """Add to the configuration."""
        self.writer.append([encode(Config(values)), encode(Metadata({"seeds": {}}))])

    def stage(self, number: int, contents: bytes) -> None:
        """Log an artifact of one file."""
        from fasttrack.artifacts.staging import stage_text

        directory = staged_directory(self.writer.path, number)
        stage_text("model.txt", contents.decode(), directory).finish()
        entry = Artifact(
            number=number,
            type="model",
            name="model-r1",
            aliases=("best",),
            directory=str(directory.relative_to(self.run_dir)),
            files=1,
            size_bytes=len(contents),
        )
        self.writer.append([encode(entry)])

    def staged_files(self) -> list[Path]:
        """Return what is staged by now."""
        folders = self.run_dir.glob("artifacts/*/*")
        return [file for folder in folders for file in files_directory(folder).iterdir()]

    def finish(self, exit_code: int = 0, *, preempting: bool = False, within_s: float = 60) -> None:
        """End the attempt in order; delivery has `within_s` from now."""
        deadline_s = self.clock() + within_s
        finish = Finish(exit_code=exit_code, preempting=preempting, deadline_s=deadline_s)
        self.writer.append([encode(finish)])
        self.vanish()

    def vanish(self) -> None:
        """Be killed."""
        self.writer.close()
        self.alive = False


class Scene:
    """A run, where it is delivered to, and what was reported."""

    def __init__(self, run_dir: Path) -> None:
        """Begin with a destination called "memory"."""
        self.run_dir = run_dir
        self.clock = ManualClock()
        self.destination = MemoryDestination()
        self.destinations = {"memory": self.destination}
        self.backend_class: type[MemoryBackend] = MemoryBackend
        self.events: list[Event] = []

    def begin(self, **header: Any) -> Trainer:
        """Begin an attempt."""
        backends = tuple(self.destinations)
        self.trainer = Trainer(self.run_dir, self.clock, **{"backends": backends, **header})
        return self.trainer

    def delivery(self, *, by_hand: bool = False) -> RunDelivery:
        """Return the delivery of the newest attempt; by hand it waits for nobody."""
        trainer = self.trainer
        self.events.clear()
        return self.delivery_of(
            trainer.writer.path, trainer_alive=lambda: trainer.alive and not by_hand
        )

    def delivery_of(
        self, segment: Path, trainer_alive: Callable[[], bool] = lambda: False
    ) -> RunDelivery:
        """Return the delivery of a segment, however it came to be."""
        return RunDelivery(
            segment,
            trainer_alive=trainer_alive,
            report=self.events.append,
            make=self._make,
            clock=self.clock,
            pause=self.clock.pause,
        )

    def _make(self, name: str, place: Place) -> Backend:
        return self.backend_class(place, self.destinations[name])  # a KeyError, as the registry's

    def told(self, kind: type[Any]) -> list[Any]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def steps(self) -> list[int]:
        """Return the steps of the rows at the destination."""
        return [row.step for row in self.destination.server.rows]
