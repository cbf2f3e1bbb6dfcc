"""Make text fit where it stands in a picture: smaller first, then in several lines, never cut."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.backend_bases import RendererBase
    from matplotlib.text import Text

_PARTS = re.compile(r"[^/_.\- ]*[/_.\- ]*")  # a line may end behind one of these letters
_STEP_POINTS = 0.5


def wrap(text: str, width: float, measure: Callable[[str], float]) -> list[str]:
    """Return `text` in lines that are at most `width` wide, where that can be.

    They end at the words of a name or sentence, and inside of one only where it alone is too wide.
    Joined they are `text`, but for spaces at their ends.
    """
    lines = [""]
    for part in filter(None, _PARTS.findall(text)):
        if lines[-1] and measure((lines[-1] + part).rstrip()) > width:
            lines.append("")
        for letter in [part] if measure((lines[-1] + part).rstrip()) <= width else part:
            if lines[-1] and measure(lines[-1] + letter.rstrip()) > width:
                lines.append("")
            lines[-1] += letter
    return [line.rstrip() for line in lines]


def fit(
    artist: Text, width: float, renderer: RendererBase, *, smallest: float, vertical: bool = False
) -> None:
    """Make `artist` at most `width` pixels wide, with letters of at least `smallest` points.

    Args:
        artist: the text.
        width: its room; the height of a text that runs upwards.
        renderer: measures it.
        smallest: below this size the text is broken into lines instead.
        vertical: whether it runs upwards.
    """

    def measure(text: str) -> float:
        artist.set_text(text)
        extent = artist.get_window_extent(renderer)
        return float(extent.height if vertical else extent.width)

    text = artist.get_text()
    size = float(artist.get_fontsize())
    while measure(text) > width and size > smallest:
        size = max(smallest, size - _STEP_POINTS)
        artist.set_fontsize(size)
    artist.set_text("\n".join(wrap(text, width, measure)))
