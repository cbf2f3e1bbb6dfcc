"""The command lines' common parts."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def make_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of `python -m module`; its help is the module's docstring as it stands."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def chosen(
    parser: argparse.ArgumentParser, option: str, given: str | None, known: Iterable[str]
) -> list[str]:
    """Return those of `known` that `given`, separated by commas, names; all where it is None."""
    wanted = set(given.split(",") if given else known)
    if unknown := wanted - set(known):
        parser.error(f"{option}: no such key: {', '.join(sorted(unknown))}")
    return [key for key in known if key in wanted]
