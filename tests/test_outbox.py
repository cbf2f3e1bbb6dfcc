"""The outbox between `run.log` and wandb-core: nothing lost, nothing out of order."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from runs import offline_dirs, run_script, wandb_rows

from fasttrack.delivery.backends.wandb_outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LOGGING = """
import wandb
from fasttrack.delivery.backends.wandb_outbox import Outbox

run = wandb.init(mode="offline", settings=wandb.Settings(silent=True))
outbox = Outbox(run._interface, wandb.proto.wandb_server_pb2.ServerRequest)
assert outbox.works
for step in range(300):
    run.log({"a": step / 2}, step=step)
    run.log({"b": -step}, step=step)
outbox.post()
outbox.post()
run.finish()
"""


class Interface:
    """wandb's side of the outbox; keeps what reaches the socket."""

    def __init__(self, broken: Exception | None = None) -> None:
        """Fail every send with `broken`."""
        self.sent: list[list[Any]] = []
        self._broken = broken
        self._asyncer = SimpleNamespace(run=self._run)
        self._client = SimpleNamespace(publish=self._publish)

    def _publish_partial_history(self, history: Any) -> None:
        raise AssertionError("the outbox stands before this")

    def _make_request(self, partial_history: Any) -> Any:
        return partial_history

    def _assign(self, record: Any) -> None:
        pass

    def _run(self, function: Callable[[], Awaitable[None]]) -> None:
        self.sent.append([])
        asyncio.run(function())  # type: ignore[arg-type]

    async def _publish(self, request: Any) -> None:
        if self._broken is not None:
            raise self._broken
        self.sent[-1].append(request.record_publish.copied)


class Request:
    """A stand-in for wandb's message class."""

    def __init__(self) -> None:
        """Hold one record."""
        self.record_publish = SimpleNamespace(CopyFrom=self._copy)

    def _copy(self, record: Any) -> None:
        self.record_publish.copied = record


def test_every_row_that_run_log_takes_reaches_the_file_in_order(tmp_path: Path) -> None:
    """The installed client has the names the outbox needs, and merging of one step still works."""
    run_script(LOGGING)

    (directory,) = offline_dirs(tmp_path)
    rows = wandb_rows(directory)
    assert [(row["_step"], row["a"], row["b"]) for row in rows] == [
        (step, step / 2, -step) for step in range(300)
    ]


def test_rows_go_together_and_in_order() -> None:
    """Full batches go by themselves, the rest with `post`, and an empty outbox sends nothing."""
    interface = Interface()
    outbox = Outbox(interface, Request)
    for row in range(300):
        interface._publish_partial_history(row)
    outbox.post()
    outbox.post()

    assert [len(batch) for batch in interface.sent] == [128, 128, 44]
    assert [row for batch in interface.sent for row in batch] == list(range(300))


def test_a_dead_core_is_heard_of() -> None:
    """What the socket raises comes out of `post`."""
    interface = Interface(ConnectionResetError("gone"))
    outbox = Outbox(interface, Request)
    interface._publish_partial_history(1)

    with pytest.raises(ConnectionResetError, match="gone"):
        outbox.post()


def test_a_client_without_the_names_is_left_as_it_is() -> None:
    """With another client's insides rows go one by one, as `run.log` sends them."""
    interface = SimpleNamespace(_publish_partial_history=len, _client=None)
    outbox = Outbox(interface, Request)
    outbox.post()

    assert not outbox.works
    assert interface._publish_partial_history is len
