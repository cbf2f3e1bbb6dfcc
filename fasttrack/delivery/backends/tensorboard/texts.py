"""What TensorBoard's Text tab shows of a run: what it is, and its configuration."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fasttrack.journal.cursor import Ledger
    from fasttrack.journal.entries import Header

CONFIG = "fasttrack/config"
RUN = "fasttrack/run"
_NOTE = "texts"


class Texts:
    """The run's texts by tag, remembered from session to session in the ledger's notes.

    Configuration is added to in the course of a run, and a session is not told again what
    earlier ones were; a text is written anew only where it has changed.

    Threads: one at a time.
    """

    def __init__(self, ledger: Ledger, header: Header, *, written: bool) -> None:
        """Go on from what `ledger` remembers.

        Args:
            ledger: the run's.
            header: describes the run.
            written: whether the files that earlier sessions wrote texts into are there.
        """
        self._ledger = ledger
        remembered: dict[str, dict[str, Any]] = ledger.notes.get(_NOTE, {})
        self._written = dict(remembered) if written else {}
        self._values = {tag: dict(remembered.get(tag, {})) for tag in (RUN, CONFIG)}
        about = {
            "name": header.name,
            "project": header.project,
            "group": header.group,
            "tags": list(header.tags or ()),
            "notes": header.notes,
        }
        self._values[RUN] |= {name: told for name, told in about.items() if told}
        self._values[CONFIG] |= header.config

    def configure(self, values: Mapping[str, Any]) -> None:
        """Add to the configuration; what it has under the same names is replaced."""
        self._values[CONFIG] |= values

    def changed(self) -> Iterator[tuple[str, str]]:
        """Yield (tag, Markdown) of what is not written as it is now."""
        for tag, values in self._values.items():
            if values and values != self._written.get(tag):
                yield tag, _markdown(values)

    def note_written(self) -> None:
        """Remember that all is written as it is now."""
        self._written = {tag: dict(values) for tag, values in self._values.items() if values}
        self._ledger.notes[_NOTE] = self._written


def _markdown(values: Mapping[str, object]) -> str:
    """Return YAML as an indented block of code, in which nothing has a meaning of its own."""
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)
    return textwrap.indent(text, "    ")
