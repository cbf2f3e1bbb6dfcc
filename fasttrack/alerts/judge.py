"""Decide what of a run is worth an alert: rows come by, time passes, the process ends."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fasttrack.alerts.detectors import FirstNonFinite, NonFinite, RuleWatch, Spike
from fasttrack.alerts.ranks import RanksWatch
from fasttrack.journal.alerts import ASKED
from fasttrack.journal.hardware import is_of_nodes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fasttrack.alerts.detectors import Detector
    from fasttrack.alerts.settings import AlertSettings
    from fasttrack.journal.rows import Names, Row
    from fasttrack.journal.trouble import AskedAlert, RanksStanding

INFO: Final = "INFO"
WARN: Final = "WARN"
ERROR: Final = "ERROR"

_LOSS = re.compile(r"(?:^|[/._ -])loss(?:/|$)", re.IGNORECASE)
_LOSS_TOTAL = "loss/total"
_FIRST_BAD_LOSS = "train/nonfinite_loss"  # what an adapter for a trainer logs of it, at its step
_LEVELS = {"non_finite": ERROR, "spike": WARN, "rule": WARN}
_ENOUGH_ROWS = 10  # to know how long it takes from one to the next
_LONGER = 3  # times the longest that it took so far, at the least, is far longer than usual
_STOPPED_S = 10.0  # a process that is stopped is told of so soon, if not sooner
_INTERRUPTED = 130  # the exit code of Ctrl-C: whoever pressed it knows
_MOST_METRICS = 10_000  # with a detector; more are names made anew at every step


class Finding(NamedTuple):
    """Something worth an alert, once for each `key`."""

    key: str
    """Its cause: the same however often it is found, by whatever process."""
    kind: str
    level: str
    """"INFO", "WARN" or "ERROR"."""
    title: str
    text: str
    time_s: float
    """Unix time of it."""
    step: int | None = None


class Judge:
    """Look at one run. What it finds is news; whether it was told before, `key` says.

    Threads: one at a time.
    """

    def __init__(self, settings: AlertSettings) -> None:
        """Watch for what `settings` say."""
        self._settings = settings
        self._detectors: dict[str, tuple[Detector, ...]] = {}
        self._watched: dict[Names, tuple[tuple[int, tuple[Detector, ...]], ...]] = {}
        self._waiting: dict[str, dict[str, Any]] = {}  # what detectors to come shall know
        self._attempt = 0
        self._rows = 0  # of this attempt
        self._last_step: int | None = None
        self._last_s: float | None = None  # unix time of this attempt's last row
        self._longest_s = 0.0  # from one row of an attempt to the next
        self._silent_s = 0.0
        self._still_s = 0.0
        self._stall_told = self._hung_told = False
        self._ranks = RanksWatch()
        self.paused = False
        """Whether the trainer is in a pause that it has marked."""

    @property
    def attempt(self) -> int:
        """The attempt that it looks at; 0 before the first."""
        return self._attempt

    # --- rows -------------------------------------------------------------------------------------

    def begin(self, attempt: int) -> None:
        """Note that what follows is of another attempt."""
        self._attempt, self._rows, self._last_s = attempt, 0, None
        self._ranks.begin()
        self._silent_s = self._still_s = 0.0
        self._stall_told = self._hung_told = self.paused = False

    def see(self, rows: Sequence[Row]) -> list[Finding]:
        """Take in rows, in order; return what is wrong."""
        found: list[Finding] = []
        for row in rows:
            if not self._rows and self._last_step is not None and row.step <= self._last_step:
                self._rewind(row.step)
            self._rows += 1
            names = row.names
            if names is None:
                for name, value in row.values.items():
                    for detector in self._detectors_of(name):
                        self._ask(detector, row, value, found)
                continue
            watched = self._watched.get(names)
            if watched is None:
                watched = self._note(names)
            if watched:
                spelled = row.spelled
                assert spelled is not None
                for place, detectors in watched:
                    value = float(spelled[place])
                    for detector in detectors:
                        self._ask(detector, row, value, found)
        if rows:
            self._note_times(rows)
        return found

    def see_layers(self, step: int, text: str, time_s: float) -> list[Finding]:
        """Take in that layers of the model went bad; return that, if it is watched for."""
        if not self._settings.non_finite:
            return []
        told = f"at step {step} {text}"
        key = f"non_finite:layers:{step}"
        return [Finding(key, "non_finite", ERROR, "a layer went bad", told, time_s, step)]

    def see_asked(self, alert: AskedAlert) -> Finding:
        """Return what the program itself asks for: it is told as it stands."""
        key = f"{ASKED}:{alert.title}:{self._attempt} {alert.time_s!r}"
        told = (alert.level, alert.title, alert.text, alert.time_s, alert.step)
        return Finding(key, ASKED, *told)

    def see_ranks(self, standing: RanksStanding) -> list[Finding]:
        """Take in how it stands with the ranks; return what is news of it, if watched for."""
        watched = {"straggler": self._settings.straggler, "missing": self._settings.missing}
        # The same straggler in the next attempt is no news; a rank that is missing again is.
        causes = {"straggler": "straggler:", "missing": f"missing:{self._attempt} "}
        return [
            Finding(
                causes[news.kind] + news.first,
                news.kind,
                WARN,
                news.title,
                news.text + self._since(),
                standing.time_s,
                self._last_step,
            )
            for news in self._ranks.see(standing)
            if watched[news.kind]
        ]

    def _ask(self, detector: Detector, row: Row, value: float, found: list[Finding]) -> None:
        trouble = detector.see(row.step, value)
        if trouble is not None:
            key = f"{detector.cause}:{row.step}"
            level = _LEVELS[detector.kind]
            found.append(Finding(key, detector.kind, level, *trouble, row.time_s, row.step))

    def _note(self, names: Names) -> tuple[tuple[int, tuple[Detector, ...]], ...]:
        if len(self._watched) >= _MOST_METRICS:
            self._watched.clear()
        watched = tuple(
            (place, detectors)
            for place, name in enumerate(names.in_order, 3)  # behind number, step and time
            if (detectors := self._detectors_of(name))
        )
        self._watched[names] = watched
        return watched

    def _detectors_of(self, metric: str) -> tuple[Detector, ...]:
        known = self._detectors.get(metric)
        if known is None:
            if len(self._detectors) >= _MOST_METRICS:
                return ()
            known = self._detectors[metric] = tuple(self._make(metric))
            for detector in known:
                with contextlib.suppress(KeyError, TypeError, ValueError):
                    detector.restore(self._waiting.pop(detector.cause))
        return known

    def _make(self, metric: str) -> Iterable[Detector]:
        if metric == _FIRST_BAD_LOSS:
            for each in self._detectors_of(_LOSS_TOTAL):
                if isinstance(each, NonFinite):
                    yield FirstNonFinite(metric, each)
        elif _LOSS.search(metric):
            if self._settings.non_finite:
                yield NonFinite(metric)
            if self._settings.spike:
                yield Spike(metric)
        for rule in self._settings.rules:
            if rule.metric == metric:
                yield RuleWatch(rule)

    def _rewind(self, step: int) -> None:
        for cause in list(self._waiting):
            kind, _, metric = cause.partition(":")
            if kind != RuleWatch.kind:  # those of rules know no steps
                self._detectors_of(metric)
        for detectors in self._detectors.values():
            for detector in detectors:
                detector.rewind(step)

    def _note_times(self, rows: Sequence[Row]) -> None:
        rows = [row for row in rows if not is_of_nodes(row)]  # which go on where training stalls
        if not rows:
            return
        self._last_step = rows[-1].step
        for row in rows:
            if self._last_s is not None and row.time_s - self._last_s > self._longest_s:
                self._longest_s = row.time_s - self._last_s
            self._last_s = row.time_s
        self._silent_s = self._still_s = 0.0
        self._stall_told = self._hung_told = False

    # --- time -------------------------------------------------------------------------------------

    def wait(
        self, passed_s: float, now_s: float, *, stopped: bool = False, still: bool = False
    ) -> list[Finding]:
        """Note that time has passed without a row; return what is wrong.

        Args:
            passed_s: seconds since the last call, in which this process ran.
            now_s: unix time.
            stopped: whether the training process is stopped: by SIGSTOP, say.
            still: whether nothing of ours has run in it for as long.
        """
        if not self.paused:
            self._silent_s += passed_s
        self._still_s = self._still_s + passed_s if stopped or still else 0.0
        found = []
        hung_s, stall_s = self._settings.hung, self._settings.stall
        if hung_s is not None and not self._hung_told and self._is_hung(hung_s, stopped):
            self._hung_told = True
            why = "is stopped (SIGSTOP, or Ctrl-Z)" if stopped else "runs no Python code"
            text = f"the training process {why}, for {self._still_s:.0f} s by now{self._since()}"
            found.append(self._about_process("hung", ERROR, "training hangs", text, now_s))
        if (
            stall_s is not None
            and self._rows >= _ENOUGH_ROWS
            and not self._stall_told
            and self._silent_s >= max(stall_s, _LONGER * self._longest_s)
        ):
            self._stall_told = True
            usual = f"it took {self._longest_s:.3g} s at most before"
            text = f"no row for {self._silent_s:.0f} s, and {usual}{self._since()}"
            found.append(self._about_process("stall", WARN, "training stalls", text, now_s))
        return found

    def _is_hung(self, hung_s: float, stopped: bool) -> bool:
        if stopped:
            return self._still_s >= min(hung_s, _STOPPED_S)
        # Before the first rows a model may be compiled for minutes; and who waits for long steps of
        # the device, or saves for long, does so again.
        if self._rows < _ENOUGH_ROWS or self.paused:
            return False
        return self._still_s >= max(hung_s, _LONGER * self._longest_s)

    def _since(self) -> str:
        return "" if self._last_step is None else f"; its last step was {self._last_step}"

    def _about_process(self, kind: str, level: str, title: str, text: str, now_s: float) -> Finding:
        key = f"{kind}:{self._attempt}:{self._rows}"
        return Finding(key, kind, level, title, text, now_s, self._last_step)

    # --- the end ----------------------------------------------------------------------------------

    def end(self, exit_code: int | None, now_s: float, *, preempting: bool) -> list[Finding]:
        """Note how the attempt ended; return what is wrong.

        Args:
            exit_code: what its last line says; None: it has none, its process is gone.
            now_s: unix time of it.
            preempting: whether it is to go on in another attempt.
        """
        if not self._settings.crash or preempting or exit_code in (0, _INTERRUPTED):
            return []
        if exit_code is None:
            title, text = "training died", "the training process died without a word"
        else:
            title, text = "training failed", f"the run ended as failed (exit code {exit_code})"
        finding = Finding(
            f"crash:{self._attempt}", "crash", ERROR, title, text + self._since(), now_s
        )
        return [finding._replace(step=self._last_step)]

    # --- what it knows ----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what it knows, as JSON takes it."""
        known = {
            detector.cause: detector.state()
            for detectors in self._detectors.values()
            for detector in detectors
        }
        return {
            "detectors": {**self._waiting, **known},
            "attempt": self._attempt,
            "rows": self._rows,
            "last_step": self._last_step,
            "last_s": self._last_s,
            "longest_s": self._longest_s,
            "paused": self.paused,
            "ranks": self._ranks.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Know what `state` returned, before any row. What is damaged of it counts as unknown."""
        with contextlib.suppress(KeyError, TypeError, ValueError):
            self._waiting = dict(state["detectors"])
            self._attempt, self._rows = int(state["attempt"]), int(state["rows"])
            last_step, last_s = state["last_step"], state["last_s"]
            self._last_step = None if last_step is None else int(last_step)
            self._last_s = None if last_s is None else float(last_s)
            self._longest_s, self.paused = float(state["longest_s"]), bool(state["paused"])
            self._ranks.restore(state["ranks"])
