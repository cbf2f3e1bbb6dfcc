"""What reading runs needs of other packages, and how to install what is missing."""

from __future__ import annotations

import importlib

from fasttrack.errors import FasttrackError

_EXTRAS = {"bokeh": "report", "pyarrow": "export", "pandas": "pandas", "polars": "polars"}


def require(package: str, what: str) -> None:
    """Load a package of one of the extras.

    Args:
        package: its name.
        what: what needs it, for the message.

    Raises:
        FasttrackError: it is not installed; the message says how to install it.
    """
    try:
        importlib.import_module(package)
    except ImportError as error:
        extra = _EXTRAS[package]
        raise FasttrackError(f"{what} needs {package}: pip install 'fasttrack[{extra}]'") from error
