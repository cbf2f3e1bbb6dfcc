"""What the stand-in prints, each thing once."""

from __future__ import annotations

import sys

from fasttrack.notices import Notices

NOTICES = Notices()
"""Of this process, before and after its runs, too."""


def say_once(what: str, text: str) -> None:
    """Print a line about `what`, unless there was one."""
    NOTICES.warn(f"wandb:{what}", f"fasttrack.wandb: {text}")


def termlog(string: str = "", newline: bool = True, repeat: bool = True) -> None:
    """Print text as W&B's client does. `repeat=False`: not a second time."""
    _term(str(string), newline, repeat)


def termwarn(string: str, newline: bool = True, repeat: bool = True) -> None:
    """Print a warning as W&B's client does. `repeat=False`: not a second time."""
    _term(f"WARNING {string}", newline, repeat)


def termerror(string: str, newline: bool = True, repeat: bool = True) -> None:
    """Print an error as W&B's client does. `repeat=False`: not a second time."""
    _term(f"ERROR {string}", newline, repeat)


_printed: set[str] = set()


def _term(text: str, newline: bool, repeat: bool) -> None:
    if not repeat:
        if text in _printed:
            return
        _printed.add(text)
    print(f"wandb: {text}", end="\n" if newline else "", file=sys.stderr)
