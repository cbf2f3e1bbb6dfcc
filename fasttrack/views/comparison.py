"""In what runs differ, as values: what `fasttrack compare` prints."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fasttrack.runs.patterns import matching, require_matches
from fasttrack.views.report import flatten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fasttrack.journal.rows import Number
    from fasttrack.runs.opened import Run


@dataclass(frozen=True, slots=True)
class ComparedSetting:
    """A setting that is not the same in all runs."""

    name: str
    """Dotted where it is nested."""
    values: tuple[Any, ...]
    """Each run's; None where it has none, too."""
    present: tuple[bool, ...]
    """Whether it has one."""

    @property
    def is_shared(self) -> bool:
        """Whether all runs have it."""
        return all(self.present)


@dataclass(frozen=True, slots=True)
class ComparedMetric:
    """The last values of a metric."""

    name: str
    values: tuple[Number | None, ...]
    """Each run's; None where it has none."""
    steps: tuple[int | None, ...]
    """The steps of these."""

    @property
    def is_shared(self) -> bool:
        """Whether all runs have it."""
        return None not in self.values

    @property
    def deltas(self) -> tuple[Number | None, ...]:
        """By how much each exceeds the first; None where one is missing or not finite."""
        first = self.values[0]
        return tuple(_difference(value, first) for value in self.values)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Some runs beside each other."""

    runs: tuple[Run, ...]
    settings: tuple[ComparedSetting, ...]
    """Those that differ, by name."""
    same: int
    """How many settings all of them have alike."""
    metrics: tuple[ComparedMetric, ...]

    def as_json(self) -> dict[str, object]:
        """Return what `fasttrack compare --json` prints."""
        return {
            "runs": [
                {
                    "run_id": run.id,
                    "name": run.name,
                    "project": run.project,
                    "state": run.state,
                    "directory": str(run.directory),
                }
                for run in self.runs
            ],
            "same_config": self.same,
            "config": [
                {"name": one.name, "values": one.values, "present": one.present}
                for one in self.settings
            ],
            "metrics": [
                {
                    "name": one.name,
                    "values": one.values,
                    "steps": one.steps,
                    "deltas": one.deltas,
                }
                for one in self.metrics
            ],
        }


def compare_runs(runs: Sequence[Run], patterns: Sequence[str] = ()) -> Comparison:
    """Return in what `runs` differ. Reads all rows, keeps none.

    Args:
        runs: two or more; the first is what the others are measured by.
        patterns: of the metrics to compare; none: all.

    Raises:
        FasttrackError: no run has such a metric, or one cannot be read.
    """
    configs = [flatten(run.config) for run in runs]
    names = dict.fromkeys(name for config in configs for name in config)
    differing = [name for name in names if not _alike([c.get(name, _NONE) for c in configs])]
    last = [run.last_values() for run in runs]
    metrics = list(dict.fromkeys(name for values in last for name in values))
    if patterns:
        require_matches(metrics, patterns, several_runs=True)
        metrics = matching(metrics, patterns)
    return Comparison(
        tuple(runs),
        tuple(
            ComparedSetting(
                name,
                tuple(config.get(name) for config in configs),
                tuple(name in config for config in configs),
            )
            for name in sorted(differing)
        ),
        len(names) - len(differing),
        tuple(
            ComparedMetric(
                name,
                tuple(values[name][1] if name in values else None for values in last),
                tuple(values[name][0] if name in values else None for values in last),
            )
            for name in metrics
        ),
    )


_NONE = object()  # a setting that a run does not have


def _alike(values: list[Any]) -> bool:
    return len({_spelled(value) for value in values}) == 1


def _spelled(value: Any) -> Any:
    """Return what is equal for settings that mean the same: 1 and 1.0 do, 1 and True do not."""
    if value is _NONE or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    return json.dumps(value, sort_keys=True)


def _difference(value: Number | None, first: Number | None) -> Number | None:
    if value is None or first is None or not (math.isfinite(value) and math.isfinite(first)):
        return None
    return value - first
