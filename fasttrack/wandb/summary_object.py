"""`wandb.summary`: the last value of every metric, and what the script sets by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fasttrack.wandb.unknown import careful

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class Summary:
    """What stands for a run. What is set by hand stays until the metric is logged again.

    Threads: any.
    """

    def __init__(
        self, last: dict[str, int | float], tell: Callable[[dict[str, Any]], None]
    ) -> None:
        """Begin empty.

        Args:
            last: the numbers that were logged last, by metric; changed here.
            tell: gets what is set by hand.
        """
        object.__setattr__(self, "_last", last)
        object.__setattr__(self, "_set", {})
        object.__setattr__(self, "_tell", tell)

    @careful
    def update(self, d: Mapping[str, Any]) -> None:
        """Set many values."""
        told = {str(name): _plain(value) for name, value in d.items()}
        for name, value in told.items():
            self._last.pop(name, None)
            self._set[name] = value
        self._tell(told)

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, or `default` where there is none."""
        return self._all().get(key, default)

    def keys(self) -> list[str]:
        """Return all names."""
        return list(self._all())

    def items(self) -> list[tuple[str, Any]]:
        """Return all names and values."""
        return list(self._all().items())

    def _all(self) -> dict[str, Any]:
        return {**self._set, **self._last}

    def __getitem__(self, key: str) -> Any:
        return self._all()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):
            raise AttributeError(key)
        try:
            return self._all()[key]
        except KeyError:
            raise AttributeError(f"the run's summary has no {key!r}") from None

    def __setattr__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __contains__(self, key: object) -> bool:
        return key in self._all()

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return str(self._all())


def _plain(value: Any) -> Any:
    """Return a number where a tensor or an array holds one; it is not logged in a loop."""
    if hasattr(value, "item") and hasattr(value, "tolist"):
        return value.tolist()
    return value
