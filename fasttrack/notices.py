"""Count what could not be kept, by reason, and say each kind of trouble once."""

from __future__ import annotations

import re
import sys
from collections import Counter
from threading import RLock

from fasttrack.handler_errors import is_handlers

_MOST_WARNINGS = 1000  # memory and log must not fill up, whatever comes
_MOST_REASONS = 1000
_LONGEST_NAME, _LONGEST_WHY = 100, 500  # characters
_MOST_ALIKE = 100  # reasons of one cause or one name: made anew at every step, as it seems
_VARYING = re.compile(r"(?<!\w)(['\"]).*?(?:\1|$)|\b0x[0-9a-f]+|\d+")


def say(text: str) -> None:
    """Print one line for the user on stderr. Never raises.

    Stderr may be closed, gone, or in use by what a signal handler has interrupted. The line may
    hold what the user has logged, or what a library said of it: secrets are redacted.
    """
    from fasttrack.redaction import redact_text  # hardly ever needed

    try:
        print(f"[ExperimentTracker] {redact_text(text)}", file=sys.stderr, flush=True)
    except Exception as error:  # stderr may be an object of the user's
        if is_handlers(error):
            raise


def spell(value: object) -> str:
    """Return `repr(value)`, or what is left to say where that raises."""
    try:
        return repr(value)
    except Exception as error:
        if is_handlers(error):
            raise
        return f"<{type(value).__name__} whose repr() raises>"


def gb(size_bytes: int) -> str:
    """Return a size for people."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} bytes"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"


def cause_of(why: str) -> str:
    """Return `why` without what differs between cases of one mistake: numbers and quoted values."""
    return _VARYING.sub("#", why)


class Notices:
    """The tracker's counts and its once-only warnings.

    Threads: any. The lock is taken only where something went wrong, never by a push that
    succeeds; it is re-entrant because a signal handler may log in the middle of a count.
    """

    def __init__(self) -> None:
        """Start with nothing counted and nothing said."""
        self._lock = RLock()
        self._counts: Counter[str] = Counter()
        self._said: set[str] = set()
        self._reasons: dict[tuple[str, str], str] = {}  # by name and cause, as it is shown
        self._lost: Counter[tuple[str, str]] = Counter()
        self._alike: Counter[str] = Counter()  # reasons of one name, or of one cause

    def count(self, kind: str, number: int = 1) -> None:
        """Add `number` to what `counts` has for `kind`."""
        with self._lock:
            self._counts[kind] += number

    def lose(self, kind: str, name: str, why: str, *, result: str, number: int = 1) -> None:
        """Count a loss by kind and by reason; say each reason once.

        Args:
            kind: what `counts` has it under.
            name: the metric or the call that it befell.
            why: what was wrong and, behind a semicolon, what to do. What differs in its numbers and
                quoted values only is one reason.
            result: what became of it, for the warning.
            number: how many were lost.
        """
        name, why = _short(name, _LONGEST_NAME), _short(why, _LONGEST_WHY)
        with self._lock:
            self._counts[kind] += number
            key = self._key(name, cause_of(why))
            new = key not in self._reasons
            if new:
                shown = why.split(";", 1)[0] if key[1] else "other reasons"
                self._reasons[key] = f"{key[0] or 'others'}: {shown}"
                self._alike.update(key)
            self._lost[key] += number
        if new:
            more = "" if all(key) else " (more of this kind is counted only)"
            say(f"{name}: {why}; {result}{more}")

    def _key(self, name: str, cause: str) -> tuple[str, str]:
        if (name, cause) in self._reasons:
            return name, cause
        full = len(self._reasons) >= _MOST_REASONS
        return (
            "" if full or self._alike[cause] >= _MOST_ALIKE else name,
            "" if full or self._alike[name] >= _MOST_ALIKE else cause,
        )

    def refuse(self, metric: str, why: str) -> None:
        """Count a value that cannot be logged; name its metric, with each cause, in one warning."""
        # Whatever stood in the mapping: a name may be an enum's, empty, or no text to print.
        name = str.__str__(metric) if isinstance(metric, str) else spell(metric)
        shown = name if name and name.isprintable() else spell(name)
        self.lose("refused", shown, why, result="not logged")

    def warn(self, key: str, text: str) -> None:
        """Say `text`, unless something was said for `key` before."""
        with self._lock:
            if key in self._said or len(self._said) >= _MOST_WARNINGS:
                return
            self._said.add(key)
        say(text)

    def counts(self) -> dict[str, int]:
        """Return a copy of the counts, without zeros."""
        with self._lock:
            return dict(self._counts)

    def reasons(self) -> dict[str, int]:
        """Return how much was lost for each reason, the most frequent first."""
        shown: Counter[str] = Counter()
        with self._lock:
            for key, number in self._lost.items():
                shown[self._reasons[key]] += number
        return dict(shown.most_common())
