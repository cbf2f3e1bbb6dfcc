"""Metrics in nested mappings, under the names that W&B shows for such: `val.loss`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fasttrack.handler_errors import is_handlers
from fasttrack.hotpath.advice import explain
from fasttrack.notices import spell

if TYPE_CHECKING:
    from collections.abc import Callable, Container

_DEEPEST = 20  # levels


def flatten(
    nested: Mapping[Any, Mapping[Any, Any]],
    taken: Container[str],
    refuse: Callable[[str, str], None],
) -> dict[str, object]:
    """Return what stands in mappings, at every depth, by dotted name.

    Args:
        nested: mappings by the name they were logged under.
        taken: names that the same call uses already.
        refuse: told (name, why) for what cannot be named.
    """
    flat: dict[str, object] = {}

    def add(prefix: str, inner: Mapping[Any, Any], around: tuple[int, ...]) -> None:
        around = (*around, id(inner))
        try:
            items = list(inner.items())
        except Exception as error:  # the user's own mapping
            if is_handlers(error):
                raise
            refuse(prefix, f"what it holds cannot be read: {explain(error)}")
            return
        for key, value in items:
            if not issubclass(type(key), (str, int)):
                why = "is no name; use strings, or whole numbers below the first"
                refuse(f"{prefix}.{spell(key)}", f"{spell(key)} {why}")
                continue
            name = f"{prefix}.{_plain(key)}"
            if issubclass(type(value), Mapping):  # isinstance() asks the object, which may raise
                if id(value) not in around and len(around) < _DEEPEST:
                    add(name, value, around)
                else:
                    refuse(name, f"the mapping holds itself, or lies {_DEEPEST} levels deep")
            elif name in taken or name in flat:
                refuse(name, "it stands twice in this call; rename one")
            else:
                flat[name] = value

    for name, inner in nested.items():
        if isinstance(name, str):
            add(_plain(name), inner, ())
        else:
            refuse(spell(name), "names are strings")
    return flat


def _plain(name: str | int) -> str:
    # An enum's value, NumPy's text; and formatting a str of the user's own class may raise.
    return str.__str__(name) if isinstance(name, str) else str(name)
