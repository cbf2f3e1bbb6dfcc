"""How a tracker shows itself: as text, and in a notebook."""

from __future__ import annotations

from typing import Any

NOT_RECORDED = ("not recorded by this process", "")
"""State and link of a tracker without a run."""


def as_text(name: str | None, run_id: str | None, state: str, link: str) -> str:
    """Return what `repr` shows."""
    return f"<ExperimentTracker {name} ({run_id}), {state}{_after_colon(link)}>"


def as_html(name: str | None, run_id: str | None, state: str, link: str) -> str:
    """Return the same for a notebook, with a link to a page. All of it is escaped."""
    import html  # 0.3 MB of names of characters

    shown = html.escape(link)
    if link.startswith(("https://", "http://")):
        shown = f'<a href="{shown}" target="_blank" rel="noopener">{shown}</a>'
    title = f"<b>{html.escape(str(name))}</b> ({html.escape(str(run_id))})"
    return f"{title}, {html.escape(state)}{_after_colon(shown)}"


def _after_colon(link: str) -> str:
    return f": {link}" if link else ""


class Shown:
    """What of a tracker is seen where it is printed, or a notebook's cell ends with it."""

    _run_id: str | None
    _engine: Any

    def get_run_name(self) -> str | None:
        """Return the run's name."""
        raise NotImplementedError

    def __repr__(self) -> str:
        """Return the run's name, id and state, and where to look at it."""
        return as_text(self.get_run_name(), self._run_id, *self._state_and_link())

    def _repr_html_(self) -> str:
        return as_html(self.get_run_name(), self._run_id, *self._state_and_link())

    def _state_and_link(self) -> tuple[str, str]:
        return NOT_RECORDED if self._engine is None else self._engine.state_and_link()
