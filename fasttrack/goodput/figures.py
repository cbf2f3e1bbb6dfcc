"""A run's goodput in figures: where its time went, and how many of its steps stayed.

Goodput is the share of a run's wall time in which steps were trained whose result was kept:

    share = kept_s / wall_s

`wall_s` is the time from the first attempt's header (its tracker was made) to the last sign of life
in the journal, the waits between attempts included. The word is Google's, for the productive share
of a training job's time on its accelerators; what counts as productive here is said below.

All of that time is in one of six sums, each over the attempts:

    wall_s = kept_s + lost_s + pause_s + starting_s + down_s + ending_s

- **kept_s, lost_s**: training. A row of a training step tells when the step ended. The time from
  one such row to the next, without the pauses in it (`perf/pause_s`), is that of the steps behind
  the first up to the second. A step is lost if training later began anew at it or before it, in the
  next attempt or in the same one; else it is kept. Of steps between two rows each takes as long as
  the others. How long an attempt's first step took no row tells: it counts as long as a step of
  this attempt usually takes, its median.
- **pause_s**: `tracker.pause()`, and what was found to be a pause, as steps took far longer than
  usual (evaluations, checkpoints). Marked ones count behind the last step, too.
- **down_s**: from an attempt's last sign of life to the header of the next. Of an attempt that was
  killed that is its last line with a time: the journal is at most some tenths of a second behind.
- **starting_s**: from an attempt's header to the beginning of its first step; all of an attempt
  that came to none.
- **ending_s**: from an attempt's last step to its last sign of life: a last checkpoint, say.

A restart's gap is `down_s` and `starting_s` of the attempt that it led to.

Steps are counted by their numbers. Every number between two rows counts as a step that was trained.
Where not each step is logged, an attempt that ended in order tells of those before its first row
and after its last. Of one that was killed, those after its last row are not known: if the next
attempt begins further on, there must have been that many, and they count as kept, each as long as
usual; if it begins further back, they were lost unseen, at most as many as lie between two rows.
What a run's newest attempt has trained counts as kept, as nothing has begun anew behind it yet.

Where no row is one of a training step (a loop that calls `log_metrics` only), all rows count as
such; a row whose step lies behind an earlier one of its attempt is passed over.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptGoodput:
    """One attempt of a run. Times are unix times, durations seconds."""

    attempt: int
    """Its number, from 1."""
    began_s: float
    """When its tracker was made."""
    ended_s: float
    """Its last sign of life."""
    first_step: int | None
    """The number of its first training step; None: it came to none."""
    last_step: int | None
    """That of its last one, as far as it is known."""
    kept_steps: int
    lost_steps: int
    """Of its steps, those that were done again later, and those that nothing went on from."""
    unseen_steps: int
    """Of the kept ones, those of which no line tells: a later attempt went on behind them."""
    first_step_s: float | None
    """From its beginning to the end of its first step."""
    pauses: int
    """How many intervals between rows had a pause."""
    kept_s: float
    lost_s: float
    pause_s: float
    down_s: float
    """Between the attempt before and this one."""
    starting_s: float
    ending_s: float
    restart_s: float
    """From the last sign of life before it to its first step; 0 of the first attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodput:
    """A run's goodput; durations are seconds. What the figures mean is said at their module."""

    attempts: tuple[AttemptGoodput, ...]
    wall_s: float
    all_rows: bool
    """Whether no row was one of a training step, so that all were taken for such."""

    @property
    def share(self) -> float | None:
        """The part of `wall_s` that trained what was kept, 0 to 1; None: no step is known."""
        if not self.steps or not self.wall_s:
            return None
        return min(1.0, self.kept_s / self.wall_s)

    @property
    def steps(self) -> int:
        """How many steps were trained, those that were done again counted again."""
        return self.kept_steps + self.lost_steps

    @property
    def kept_steps(self) -> int:
        """How many of them stayed."""
        return sum(one.kept_steps for one in self.attempts)

    @property
    def lost_steps(self) -> int:
        """How many of them did not."""
        return sum(one.lost_steps for one in self.attempts)

    @property
    def kept_s(self) -> float:
        """How long the steps that stayed took."""
        return sum(one.kept_s for one in self.attempts)

    @property
    def lost_s(self) -> float:
        """How long the steps took that did not stay."""
        return sum(one.lost_s for one in self.attempts)

    @property
    def pause_s(self) -> float:
        """How long training paused between steps."""
        return sum(one.pause_s for one in self.attempts)

    @property
    def pauses(self) -> int:
        """How many intervals between rows had a pause."""
        return sum(one.pauses for one in self.attempts)

    @property
    def down_s(self) -> float:
        """How long no attempt was there."""
        return sum(one.down_s for one in self.attempts)

    @property
    def starting_s(self) -> float:
        """How long attempts took to begin their first steps."""
        return sum(one.starting_s for one in self.attempts)

    @property
    def ending_s(self) -> float:
        """How long attempts went on after their last steps."""
        return sum(one.ending_s for one in self.attempts)

    @property
    def restarts(self) -> int:
        """How many attempts followed another."""
        return max(0, len(self.attempts) - 1)

    @property
    def restart_s(self) -> float:
        """How long the restarts took, each from the last sign of life to the next first step."""
        return sum(one.restart_s for one in self.attempts)

    def as_json(self) -> dict[str, object]:
        """Return what `fasttrack show --json` prints of it."""
        return {name: getattr(self, name) for name in _TOLD} | {
            "attempts": [asdict(one) for one in self.attempts]
        }


_TOLD = (
    *("share", "wall_s", "steps", "kept_steps", "lost_steps", "kept_s", "lost_s", "pauses"),
    *("pause_s", "restarts", "restart_s", "down_s", "starting_s", "ending_s", "all_rows"),
)
