"""What the stand-in prints: each thing once; and what it counts."""

from __future__ import annotations

import sys

from fasttrack.notices import Notices, say

NOTICES = Notices()
"""Of this process, before and after its runs, too."""

_KIND = "wandb"
_told: list[int] = [0]  # how many losses were told at the end of a run
_printed: set[str] = set()


def say_once(what: str, text: str) -> None:
    """Print a line about `what`, unless there was one."""
    NOTICES.warn(f"wandb:{what}", f"fasttrack.wandb: {text}")


def lose(name: str, why: str, result: str) -> None:
    """Count what is lost, and say it once for each reason.

    Args:
        name: of the call.
        why: what is wrong; numbers in it make no other reason.
        result: what becomes of it.
    """
    NOTICES.lose(_KIND, f"wandb.{name}", why, result=result)


def say_losses() -> None:
    """Say how much was lost, where that is more than was said last."""
    total = NOTICES.counts().get(_KIND, 0)
    if total > _told[0]:
        _told[0] = total
        each = "; ".join(f"{number} x {why}" for why, number in NOTICES.reasons().items())
        say(f"fasttrack.wandb: ignored, {total} in all: {each}")


def termlog(string: str = "", newline: bool = True, repeat: bool = True) -> None:
    """Print text as W&B's client does. `repeat=False`: not a second time."""
    _term(str(string), newline, repeat)


def termwarn(string: str, newline: bool = True, repeat: bool = True) -> None:
    """Print a warning as W&B's client does. `repeat=False`: not a second time."""
    _term(f"WARNING {string}", newline, repeat)


def termerror(string: str, newline: bool = True, repeat: bool = True) -> None:
    """Print an error as W&B's client does. `repeat=False`: not a second time."""
    _term(f"ERROR {string}", newline, repeat)


def _term(text: str, newline: bool, repeat: bool) -> None:
    if not repeat:
        if text in _printed:
            return
        _printed.add(text)
    print(f"wandb: {text}", end="\n" if newline else "", file=sys.stderr)
