"""What the stand-in does not know: it is named once, and whatever is done with it does nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fasttrack.wandb.said import say_once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self


class Error(Exception):
    """What W&B's client raises, for the `except` of scripts; never raised here."""


class CommError(Error):
    """The same, where the server cannot be reached."""


class UsageError(Error):
    """The same, where a call is wrong."""


class AuthenticationError(CommError):
    """The same, where the key is refused."""


errors = SimpleNamespace(
    Error=Error,
    CommError=CommError,
    UsageError=UsageError,
    AuthenticationError=AuthenticationError,
)


class Inert:
    """Something that can be called, opened and asked for anything, and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Keep nothing of it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return something inert again."""
        return Inert()

    def __getattr__(self, name: str) -> Any:
        """Return something inert; special names are not there."""
        if name.startswith("__"):
            raise AttributeError(name)
        return Inert()

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep nothing of it."""

    def __getitem__(self, key: Any) -> Any:
        """Return something inert."""
        return Inert()

    def __setitem__(self, key: Any, value: Any) -> None:
        """Keep nothing of it."""

    def __iter__(self) -> Iterator[Any]:
        """Be empty."""
        return iter(())

    def __len__(self) -> int:
        """Be empty."""
        return 0

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing."""


def named(full_name: str, name: str) -> Any:
    """Return something inert for what is not known, and say so.

    Raises:
        AttributeError: it is a private name, or one of Python's own.
    """
    if name.startswith("_"):
        raise AttributeError(f"no attribute {name!r}")
    say_once(full_name, f"{full_name} is not known here; it does nothing")
    return Inert()
