"""What MLflow shows of a run beside its metrics: parameters and tags.

A parameter can never be changed; a resumed run may well be given another learning rate. The first
value stays the parameter, what it became stands in the tag `config.<name>`. What `get_metadata`
found, which is another with every attempt, is in tags from the start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fasttrack.delivery.backends.mlflow.names import name_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fasttrack.journal.entries import Header

_LONGEST_PARAMETER = 6000  # characters; a server refuses more
_LONGEST_TAG = 8000
_METADATA = "metadata"


def tags_of(header: Header) -> dict[str, str]:
    """Return the tags that say what a run is."""
    tags = {"mlflow.source.type": "LOCAL"}
    program = header.program or next(iter(header.argv), None)
    if program:
        tags["mlflow.source.name"] = program
    if header.notes:
        tags["mlflow.note.content"] = header.notes
    if header.group:
        tags["group"] = header.group
    return {name: _cut(text, _LONGEST_TAG) for name, text in tags.items()} | tags_from(header.tags)


def tags_from(told: Sequence[str] | None) -> dict[str, str]:
    """Return fasttrack's tags, "model:eo1", as MLflow's, "model" -> "eo1"."""
    pairs = (tag.partition(":") for tag in told or ())
    return {name_for(name): _cut(value, _LONGEST_TAG) for name, _, value in pairs}


class Description:
    """The parameters and tags of a run, as MLflow has them, and what is to be added.

    Threads: one at a time.
    """

    def __init__(self, parameters: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Go on from what is there."""
        self._parameters = dict(parameters)
        self._tags = dict(tags)
        self.new_parameters: dict[str, str] = {}
        """Not there yet."""
        self.new_tags: dict[str, str] = {}
        """Not there yet, or other than they are there."""

    def tag(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        for name, text in values.items():
            self.new_tags.pop(name, None)
            if self._tags.get(name) != text:
                self.new_tags[name] = text

    def configure(self, values: Mapping[str, Any]) -> None:
        """Add to the configuration; metadata become tags."""
        metadata = values.get(_METADATA)
        if isinstance(metadata, dict):
            self.tag(dict(_flat(_METADATA, metadata, _LONGEST_TAG)))
            git = metadata.get("git")
            if isinstance(git, dict) and isinstance(git.get("commit"), str):
                self.tag({"mlflow.source.git.commit": git["commit"]})
            values = {name: value for name, value in values.items() if name != _METADATA}
        for name, text in _flat("", values, _LONGEST_PARAMETER):
            known = self._parameters.get(name, self.new_parameters.get(name))
            if known is None:
                self.new_parameters[name] = text
            elif known != text or f"config.{name}" in self._tags:
                self.tag({name_for(f"config.{name}"): text})

    def note_written(self) -> None:
        """Remember that all is there now, or never will be."""
        self._parameters |= self.new_parameters
        self._tags |= self.new_tags
        self.new_parameters, self.new_tags = {}, {}


def _flat(prefix: str, values: Mapping[str, Any], longest: int) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of nested values, "optimizer.lr" -> "0.1"."""
    for name, value in values.items():
        full = f"{prefix}.{name}" if prefix else name
        if isinstance(value, dict) and value:
            yield from _flat(full, value, longest)
        else:
            yield name_for(full), _cut(str(value), longest)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
