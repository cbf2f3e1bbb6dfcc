"""The end of what a program printed, as a terminal would have left it."""

from __future__ import annotations

import re

ENOUGH_LETTERS = 200_000
"""How many letters to read for `last_lines`; progress bars overwrite most of them."""

_MOST_LINES, _LONGEST_LINE = 400, 1_000
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def last_lines(text: str) -> str:
    """Return the last lines of `text`, without colors and without what a line was written over."""
    lines = text[-ENOUGH_LETTERS:].replace("\r\n", "\n").split("\n")
    return "\n".join(map(_line, lines[-_MOST_LINES - 1 :]))


def _line(text: str) -> str:
    text = _ESCAPES.sub("", text)
    last = next((piece for piece in reversed(text.split("\r")) if piece.strip()), "")
    last = _CONTROLS.sub("", last)
    return last if len(last) <= _LONGEST_LINE else last[: _LONGEST_LINE - 3] + "..."
