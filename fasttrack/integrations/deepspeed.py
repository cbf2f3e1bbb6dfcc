"""DeepSpeed: what its engine tells its monitor goes to the tracker, too.

    engine, optimizer, _, _ = deepspeed.initialize(model=model, config=config)
    log_monitor(engine, tracker)  # on every rank

The rest of DeepSpeed (gradient norm, loss scale, checkpoints) needs no adapter: docs/deepspeed.md.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from fasttrack.handler_errors import is_handlers
from fasttrack.notices import say

try:
    from deepspeed.monitor.monitor import Monitor
except ImportError as error:
    raise ImportError(
        "fasttrack.integrations.deepspeed needs DeepSpeed: pip install 'fasttrack[deepspeed]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fasttrack.tracker import ExperimentTracker

__all__ = ["FasttrackMonitor", "log_monitor"]

SAMPLES = "train/samples"


def log_monitor(engine: Any, tracker: ExperimentTracker) -> None:
    """Log to `tracker` what the engine, and the script, write to `engine.monitor`.

    The monitors of DeepSpeed's configuration go on. Call it on every rank: a pipeline engine sends
    its evaluation loss to the others where the monitor is enabled. Called again for an engine, the
    new tracker takes the place of the earlier one.

    Args:
        engine: what `deepspeed.initialize` returned first.
        tracker: made on every rank, too; only the recording one logs.

    Raises:
        TypeError: that is no engine of DeepSpeed's.
    """
    if not hasattr(engine, "global_steps"):
        raise TypeError(f"log_monitor takes DeepSpeed's engine, not a {type(engine).__name__}")
    if not hasattr(engine, "monitor"):
        say("this DeepSpeed's engine has no monitor: its own events are not logged")
        return
    engine.monitor = FasttrackMonitor(engine, tracker)


class FasttrackMonitor(Monitor):  # type: ignore[misc]
    """Stands in for an engine's `MonitorMaster`, which still gets everything.

    Threads: the training script's.
    """

    def __init__(self, engine: Any, tracker: ExperimentTracker) -> None:
        """Take the place of the engine's monitor."""
        others: Any = engine.monitor
        while isinstance(others, FasttrackMonitor):  # of a tracker before this one
            others = others.__dict__["_others"]
        self._others = others
        super().__init__(getattr(self._others, "monitor_config", None))
        self.enabled = True  # or the engine makes no events; on all ranks alike
        self._engine = weakref.ref(engine)
        self._tracker = tracker
        self._warned = False

    def __getattr__(self, name: str) -> Any:
        """Return what is the other monitors': `tb_monitor`, `wandb_monitor` and the like."""
        if name == "_others":  # of a monitor that is not made yet
            raise AttributeError(name)
        return getattr(self._others, name)

    def write_events(self, event_list: Iterable[Sequence[Any]]) -> None:
        """Queue events, as (name, value, x) each. Never waits; a tensor may be a value.

        They are logged at the engine's `global_steps`, with the number of samples it has trained
        on; an x of another kind is kept as `<name>/x`. What the other monitors raise is raised.
        """
        event_list = list(event_list)
        engine = self._engine()
        if engine is not None and self._tracker.is_active():
            try:
                for values in _rows(event_list, engine.global_samples):
                    self._tracker.log_metrics(values, engine.global_steps)
            except Exception as error:  # an event of the script's may be anything
                if is_handlers(error):
                    raise
                if not self._warned:
                    self._warned = True
                    say(f"events of DeepSpeed's monitor are lost: {error!r}")
        if self._others.enabled:
            self._others.write_events(event_list)


def _rows(events: Iterable[Sequence[Any]], samples: int) -> Iterator[dict[str, Any]]:
    """Yield the values of events that belong together: a name stands once in a row."""
    row: dict[str, Any] = {}
    for event in events:
        name, value, x = event[:3]
        if name in row:
            yield row
            row = {}
        row[name] = value
        if type(x) is int and x == samples:  # a tensor is not compared: that would wait
            row[SAMPLES] = samples
        elif x is not None:
            row[f"{name}/x"] = x
    if row:
        yield row
