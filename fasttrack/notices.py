"""Count what could not be kept, by reason, and say each kind of trouble once."""

from __future__ import annotations

import sys
from collections import Counter
from threading import RLock


def say(text: str) -> None:
    """Print one line for the user on stderr. Never raises (stderr may be closed or gone).

    It may hold what the user has logged, or what a library said of it: secrets are redacted.
    """
    from fasttrack.redaction import redact_text  # hardly ever needed

    try:
        print(f"[ExperimentTracker] {redact_text(text)}", file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        return


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

    def count(self, reason: str, number: int = 1) -> None:
        """Add `number` losses for `reason`."""
        with self._lock:
            self._counts[reason] += number

    def refuse(self, metric: str, why: str) -> None:
        """Count a value that cannot be logged, and name its metric in one warning."""
        self.count("refused")
        self.warn(f"metric:{metric}", f"{metric}: {why}; not logged")

    def warn(self, key: str, text: str) -> None:
        """Say `text`, unless something was said for `key` before."""
        with self._lock:
            if key in self._said or len(self._said) >= _DISTINCT_WARNINGS:
                return
            self._said.add(key)
        say(text)

    def counts(self) -> dict[str, int]:
        """Return a copy of the counts, without zeros."""
        with self._lock:
            return dict(self._counts)


_DISTINCT_WARNINGS = 1000  # a metric name made anew at every step must not fill memory or the log
