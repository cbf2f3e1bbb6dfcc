"""The outbox between `run.log` and wandb-core: nothing lost, nothing out of order."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from support.runs import offline_dirs, run_script, wandb_rows

from fasttrack.delivery.backends.wandb.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LOGGING = """
import wandb
from fasttrack.delivery.backends.wandb.outbox import Outbox

run = wandb.init(mode="offline", settings=wandb.Settings(silent=True))
outbox = Outbox(
    run._interface,
    wandb.proto.wandb_server_pb2.ServerRequest,
    run.settings.x_history_value_encoding,
)
assert outbox.works
for step in range(300):
    assert outbox.take({"a": step / 2}, step)
    run.log({"b": -step}, step=step)
outbox.post()
outbox.post()
run.finish()
"""

BOTH_WAYS = """
import wandb
from fasttrack.delivery.backends.wandb.outbox import Outbox

rows = [
    {"a": 0.1, "loss/total": 1e-300, "n": 7, "big": 2**62, "-": -0.0, "wide": 1.5e300},
    {"a.b": 1.0, "x y": 3, "\\u00e9\\"": 1e16, "step": 2},
    {"a": 123456789.123456789},
]
for name in ("own", "client"):
    run = wandb.init(mode="offline", id=name, settings=wandb.Settings(silent=True))
    run.define_metric("*", step_metric="step")
    outbox = Outbox(run._interface, wandb.proto.wandb_server_pb2.ServerRequest, "json")
    for step, row in enumerate(rows):
        if name == "client" or not outbox.take(row, step):
            run.log(row, step=step)
            assert name == "client"
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


def test_a_row_that_it_writes_is_the_one_that_run_log_would_write(tmp_path: Path) -> None:
    """Same names, same numbers, same kinds of numbers, in the file that `wandb sync` reads."""
    run_script(BOTH_WAYS)

    own, client = (
        wandb_rows(directory)
        for name in ("own", "client")
        for directory in offline_dirs(tmp_path)
        if directory.name.endswith(name)
    )
    assert len(own) == 3
    for mine, theirs in zip(own, client, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - {"_timestamp", "_runtime"}:
            assert (mine[name], type(mine[name])) == (theirs[name], type(theirs[name]))
        assert abs(mine["_timestamp"] - theirs["_timestamp"]) < 600


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_rows_for_which_json_has_no_number_are_left_to_run_log(value: float) -> None:
    """The client spells them as its server wants them."""
    outbox = Outbox(Interface(), Request, "json")

    assert not outbox.take({"a": 1.0, "b": value}, 0)


def test_another_encoding_is_left_to_run_log() -> None:
    """The user's setting holds."""
    assert not Outbox(Interface(), Request, "json,typed").take({"a": 1.0}, 0)


def test_rows_go_together_and_in_order() -> None:
    """Full batches go by themselves, the rest with `post`, and an empty outbox sends nothing."""
    interface = Interface()
    outbox = Outbox(interface, Request, "json")
    for row in range(300):
        interface._publish_partial_history(row)
    outbox.post()
    outbox.post()

    assert [len(batch) for batch in interface.sent] == [128, 128, 44]
    assert [row for batch in interface.sent for row in batch] == list(range(300))


def test_a_dead_core_is_heard_of() -> None:
    """What the socket raises comes out of `post`."""
    interface = Interface(ConnectionResetError("gone"))
    outbox = Outbox(interface, Request, "json")
    interface._publish_partial_history(1)

    with pytest.raises(ConnectionResetError, match="gone"):
        outbox.post()


def test_a_client_without_the_names_is_left_as_it_is() -> None:
    """With another client's insides rows go one by one, as `run.log` sends them."""
    interface = SimpleNamespace(_publish_partial_history=len, _client=None)
    outbox = Outbox(interface, Request, "json")
    outbox.post()

    assert not outbox.works
    assert not outbox.take({"a": 1.0}, 0)
    assert interface._publish_partial_history is len
