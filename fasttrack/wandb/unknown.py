"""What the stand-in does not know, or cannot do: it is said once, and the script goes on."""

from __future__ import annotations

import functools
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from fasttrack.handler_errors import is_handlers
from fasttrack.wandb.said import lose, say_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import ParamSpec, Self

    P = ParamSpec("P")

R = TypeVar("R")


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
        """Return something inert again; of a function, which it may decorate, that one."""
        if len(args) == 1 and not kwargs and isinstance(args[0], (FunctionType, type)):
            return args[0]
        return Inert()

    def __instancecheck__(self, instance: object) -> bool:
        """Be a class that nothing is of."""
        return False

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


def careful(call: Callable[P, R]) -> Callable[P, R]:
    """Have a call that fails return something inert, counted and said once for each reason."""

    @functools.wraps(call)
    def quiet(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except Exception as error:  # nothing may raise into training
            if is_handlers(error):
                raise
            give_up(call.__name__, error)
            return Inert()  # type: ignore[return-value]

    return quiet


def give_up(name: str, error: Exception) -> None:
    """Count a call that failed, and say once for each reason what was wrong."""
    lose(name, f"{type(error).__name__}: {error}", "the call was ignored")
