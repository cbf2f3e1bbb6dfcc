"""Tell W&B's client how a run is to be shown, as far as that became known after its start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fasttrack.delivery.backends.wandb.client import import_wandb, one_line
from fasttrack.delivery.backends.wandb.inert import inert

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.journal.entries import Page


def show(run: Any, page: Page, leave_out: Callable[[str], None]) -> None:
    """Tell the client what `page` says.

    Args:
        run: the client's.
        page: what is to be shown.
        leave_out: told what of it W&B does not take.

    Raises:
        Exception: whatever the client raises once wandb-core has died.
    """

    def tell(what: str, call: Callable[[], object]) -> None:
        try:
            call()
        except (TypeError, ValueError, import_wandb().errors.Error) as error:
            leave_out(f"{what} ({one_line(error)})")

    for name in ("name", "notes", "tags"):
        if (value := getattr(page, name)) is not None:
            tell(f"the run's {name}", lambda name=name, value=value: setattr(run, name, value))  # type: ignore[misc]
    for name, told in page.metrics.items():
        tell(f"the definition of {name!r}", lambda name=name, told=told: _define(run, name, told))  # type: ignore[misc]
    if page.summary:
        values = {name: inert(value) for name, value in page.summary.items()}
        tell("the summary", lambda: run.summary.update(values))


def _define(run: Any, name: str, told: dict[str, Any]) -> None:
    # The axis is in the rows already. Aggregates are made of the journal: of lines that come
    # finished the client makes none.
    axis = told.get("step_metric")
    run.define_metric(name, step_metric=axis, step_sync=False, hidden=told.get("hidden"))
