"""`wandb.config`: what configures a run, by attribute or by item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fasttrack.wandb.unknown import careful

if TYPE_CHECKING:
    from collections.abc import Callable


class Config:
    """A run's configuration. Values may be changed at any time, unlike in W&B's client.

    Threads: any.
    """

    def __init__(
        self,
        items: Mapping[str, Any] | None = None,
        tell: Callable[[dict[str, Any]], None] = lambda changed: None,
    ) -> None:
        """Begin with `items`; `tell` gets what is changed."""
        object.__setattr__(self, "_items", dict(items or {}))
        object.__setattr__(self, "_tell", tell)

    @careful
    def update(self, d: Any, allow_val_change: bool | None = None) -> None:
        """Set many values: of a mapping, a namespace, or a YAML file."""
        changed = as_items(d)
        self._items.update(changed)
        self._tell(changed)

    def setdefaults(self, d: Any) -> None:
        """Set those that are not set."""
        self.update({name: value for name, value in as_items(d).items() if name not in self._items})

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, or `default` where there is none."""
        return self._items.get(key, default)

    def keys(self) -> list[str]:
        """Return all names."""
        return list(self._items)

    def items(self) -> list[tuple[str, Any]]:
        """Return all names and values."""
        return list(self._items.items())

    def values(self) -> list[Any]:
        """Return all values."""
        return list(self._items.values())

    def as_dict(self) -> dict[str, Any]:
        """Return a copy."""
        return dict(self._items)

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __getattr__(self, key: str) -> Any:
        try:
            return object.__getattribute__(self, "_items")[key]
        except KeyError:
            raise AttributeError(f"the run's config has no {key!r}") from None

    def __setattr__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return str(self._items)


def as_items(told: Any) -> dict[str, Any]:
    """Return what a configuration holds by name: of a mapping, a YAML file, or an object."""
    if isinstance(told, str):
        told = _read(told)
    if isinstance(told, Config):
        told = told.as_dict()
    if not isinstance(told, Mapping):
        told = vars(told) if hasattr(told, "__dict__") else dict(told)
    return {str(name).strip("-"): value for name, value in told.items()}


def _read(path: str) -> dict[str, Any]:
    """Return the values of a YAML file; W&B's own have each below `value`."""
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            told = yaml.safe_load(file) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(told, dict):
        raise ValueError(f"{path} holds no names and values")
    return {
        name: value["value"] if isinstance(value, dict) and "value" in value else value
        for name, value in told.items()
        if name != "wandb_version"
    }
