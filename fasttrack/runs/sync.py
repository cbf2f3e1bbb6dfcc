"""Deliver a run now, by a delivery process of its own: what `fasttrack sync` does."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from fasttrack.delivery.events import Busy, Done, LeftOut, decode
from fasttrack.delivery.spawn import BUSY, delivery_command, delivery_environment
from fasttrack.journal.run_directory import log_path
from fasttrack.runs.listening import (
    SILENCE_S,
    SilentError,
    UnwantedError,
    ended_with_block,
    lines_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from fasttrack.delivery.events import Event
    from fasttrack.runs.local import LocalRun


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncResult:
    """What became of one run's delivery."""

    run_id: str
    directory: str
    """The run's own."""
    delivered: bool = False
    """Whether every backend is proven to have all of it."""
    already: bool = False
    """Whether nothing was left to do."""
    busy: bool = False
    """Whether another process delivers it; `reason` says which."""
    rows: int | None = None
    """How many rows the run has, or how many were sent where that failed."""
    proof: str | None = None
    url: str | None = None
    """Where a person looks at the run."""
    reason: str | None = None
    """Why it is not delivered."""
    left_out: tuple[str, ...] = ()
    """What of the run can never be delivered (damaged lines, say), and why."""
    backends: tuple[Done, ...] = ()
    """What each backend said at its end."""

    def as_json(self) -> dict[str, object]:
        """Return what `fasttrack sync --json` prints."""
        return {
            "run_id": self.run_id,
            "directory": self.directory,
            "delivered": self.delivered,
            "already": self.already,
            "busy": self.busy,
            "rows": self.rows,
            "proof": self.proof,
            "url": self.url,
            "reason": self.reason,
            "left_out": list(self.left_out),
            "backends": {done.backend: _as_json(done) for done in self.backends},
        }


def _as_json(done: Done) -> dict[str, object]:
    return {name: value for name, value in asdict(done).items() if name != "backend"}


def deliver_run(
    run: LocalRun,
    *,
    to: Sequence[str] = (),
    on_event: Callable[[Event], object] = lambda event: None,
    on_silence: Callable[[str], object] = lambda why: None,
    command: Callable[[Path], Sequence[str]] = delivery_command,
    silence_s: float = SILENCE_S,
    unwanted: Callable[[], bool] = lambda: False,
) -> SyncResult:
    """Deliver `run` to its backends, whatever mode it was recorded in; blocks until that is over.

    Only what they do not have is sent. An exception, Ctrl-C included, ends the delivery process.

    Args:
        run: the run.
        to: backends, its own or others, which are its destinations from then on; empty: its own.
        on_event: told what delivery reports, while it is at work.
        on_silence: told in words where it lies still.
        command: returns the command line that delivers a run's directory.
        silence_s: after how long it is given up then.
        unwanted: asked about once a second, from the calling thread, whether to end it.
    """
    if run.journal_only and not to:
        return _undelivered(run, "it was recorded for the journal only (backends: none)")
    heard = _Heard()
    try:
        with ExitStack() as stack:
            try:
                flags = [text for name in to for text in ("--to", name)]
                process = stack.enter_context(
                    _started(run.directory, [*command(run.directory), *flags])
                )
            except OSError as error:
                return _undelivered(run, f"delivery cannot be started: {error}")
            told = lines_of(process, on_silence=on_silence, silence_s=silence_s, unwanted=unwanted)
            for line in told:
                try:
                    event = decode(line)
                except ValueError:
                    continue  # something that a client prints
                heard.take(event)
                on_event(event)
            code = process.wait()
    except SilentError as error:
        return _undelivered(run, str(error))
    except UnwantedError:
        return _undelivered(run, "it was broken off")
    if code == BUSY:
        return _undelivered(run, f"it is being delivered by {heard.holder}", busy=True)
    return replace(merge(run, list(heard.finals.values()), code), left_out=tuple(heard.left_out))


@dataclass(slots=True)
class _Heard:
    finals: dict[str, Done] = field(default_factory=dict)
    left_out: dict[str, None] = field(default_factory=dict)
    holder: str = Busy().holder

    def take(self, event: Event) -> None:
        if isinstance(event, Busy):
            self.holder = event.holder
        elif isinstance(event, LeftOut):
            self.left_out[event.what] = None
        elif isinstance(event, Done):
            self.finals[event.backend] = event


def merge(run: LocalRun, finals: Sequence[Done], code: int) -> SyncResult:
    """Return what became of `run`: delivered where every backend says so.

    Args:
        run: the run.
        finals: each backend's last word.
        code: the delivery process's exit code.
    """
    delivered = code == 0 and bool(finals) and all(done.delivered for done in finals)
    reason = None
    if not delivered:
        silent = f"delivery ended with {code}; see {log_path(run.directory)}"
        undelivered = [done for done in finals if not done.delivered]
        reason = _join(len(finals), {done.backend: done.reason for done in undelivered}) or silent
    return SyncResult(
        run_id=run.run_id,
        directory=_spell_directory(run),
        delivered=delivered,
        already=delivered and all(done.already for done in finals),
        rows=max((done.rows for done in finals), default=None),
        proof=_join(len(finals), {done.backend: done.proof for done in finals}),
        url=next((done.url for done in finals if done.url is not None), None),
        reason=reason,
        backends=tuple(finals),
    )


def _undelivered(run: LocalRun, reason: str, *, busy: bool = False) -> SyncResult:
    directory = _spell_directory(run)
    return SyncResult(run_id=run.run_id, directory=directory, reason=reason, busy=busy)


def _spell_directory(run: LocalRun) -> str:
    return str(run.directory.absolute())


def _join(backends: int, texts: dict[str, str | None]) -> str | None:
    """Return the texts as one, each with its backend's name where there are several."""
    told = {name: text for name, text in texts.items() if text is not None}
    if backends == 1:
        return next(iter(told.values()), None)
    return "; ".join(f"{name}: {text}" for name, text in told.items()) or None


@contextmanager
def _started(run_dir: Path, command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a delivery process for the run in `run_dir`; end it with the block."""
    with open(log_path(run_dir), "a", opener=_open_private) as log:
        process = subprocess.Popen(
            command,
            env=delivery_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us; we end the process in order
        )
    with ended_with_block(process):
        yield process


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
