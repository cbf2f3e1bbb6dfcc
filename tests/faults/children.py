"""Training functions that multiprocessing starts, by each of its methods."""

from __future__ import annotations

import multiprocessing
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faults.trainer import Notes, Spec


def train_in_child(spec: Spec, note: Notes) -> None:
    """Train in a child process of the script; note how it ended."""
    told = asdict(replace(spec, method=""))
    if spec.method.startswith("torch-"):
        from torch.multiprocessing.spawn import (
            ProcessExitedException,
            ProcessRaisedException,
            start_processes,
        )

        try:
            method = spec.method.removeprefix("torch-")
            start_processes(_train_as_rank, args=(told,), start_method=method)
            note("child", code=0)
        except ProcessExitedException as error:
            note("child", code=error.exit_code)
        except ProcessRaisedException:
            note("child", code=1)
        return
    context = multiprocessing.get_context(spec.method)
    child = context.Process(target=_train, args=(told,))  # type: ignore[attr-defined]
    child.start()
    child.join()
    note("child", code=child.exitcode)


def _train_as_rank(rank: int, told: dict[str, Any]) -> None:
    _train(told)


def _train(told: dict[str, Any]) -> None:
    from faults.trainer import Notes, Spec, train

    spec = Spec(**told)
    train(spec, Notes(spec.notes))
