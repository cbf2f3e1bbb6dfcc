"""A run's goodput in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fasttrack.goodput import AttemptGoodput, Goodput

_MOST_ATTEMPTS = 8  # that are told of one by one, the newest; all are in `show --json`


def tell_goodput(goodput: Goodput) -> dict[str, str]:
    """Return what is said of a run's goodput, by name; nothing where no step is known."""
    if goodput.share is None:
        return {}
    told = {
        "share": f"{goodput.share:.1%} of {spell_seconds(goodput.wall_s)}",
        "steps": f"{goodput.kept_steps:,} kept in {spell_seconds(goodput.kept_s)}",
        "lost": _counted(goodput.lost_steps, "step", goodput.lost_s),
        "restarts": _counted(goodput.restarts, "gap", goodput.restart_s),
        "pauses": _counted(goodput.pauses, "pause", goodput.pause_s),
    }
    if goodput.all_rows:
        told["counted"] = "all rows: none is of log_training_step"
    if goodput.restarts:
        newest = goodput.attempts[-_MOST_ATTEMPTS:]
        told |= {f"attempt {one.attempt}": _tell_attempt(one) for one in newest}
    return told


def _tell_attempt(attempt: AttemptGoodput) -> str:
    after = f"{spell_seconds(attempt.down_s)} after the one before" if attempt.down_s else ""
    if attempt.first_step_s is None:
        lasted = spell_seconds(attempt.ended_s - attempt.began_s)
        return "; ".join(filter(None, [f"no step in {lasted}", after]))
    parts = [
        f"steps {attempt.first_step} to {attempt.last_step}",
        f"{attempt.lost_steps:,} lost" if attempt.lost_steps else "",
        f"first step in {spell_seconds(attempt.first_step_s)}",
        f"paused {spell_seconds(attempt.pause_s)}" if attempt.pause_s else "",
        after,
    ]
    return "; ".join(filter(None, parts))


def _counted(count: int, noun: str, seconds: float) -> str:
    if not count:
        return "none"
    return f"{count:,} {noun}{'' if count == 1 else 's'}, {spell_seconds(seconds)}"


def spell_seconds(seconds: float) -> str:
    """Return a duration as a person would say it, of two units at most."""
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds >= 0.0995 else f"{seconds * 1e3:.0f} ms"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole // 60 % 60} min"
    return f"{whole // 86_400} d {whole // 3600 % 24} h"
