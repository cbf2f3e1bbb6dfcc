"""What Lightning asks every installed package for: callbacks for each Trainer, of anybody's.

It is asked wherever fasttrack is installed, and has nothing to offer unless FASTTRACK_LIGHTNING is
set; so it loads next to nothing before that.
"""

from __future__ import annotations

from typing import Any

from fasttrack.settings import resolve_lightning


def callbacks() -> list[Any]:
    """Return a `FasttrackCallback` where FASTTRACK_LIGHTNING=1 asks for one, else nothing.

    Raises:
        ConfigurationError: an environment variable is wrong.
    """
    if not resolve_lightning():
        return []
    from fasttrack.integrations.lightning import FasttrackCallback

    return [FasttrackCallback()]
