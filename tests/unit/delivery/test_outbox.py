"""The outbox between rows and wandb-core: nothing lost, nothing out of order, nothing otherwise."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from support.runs import offline_dirs, run_script, wandb_rows

from fasttrack.delivery.backends.wandb.file import read_payloads
from fasttrack.delivery.backends.wandb.outbox import Outbox
from fasttrack.journal.rows import Row

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BOTH_WAYS = """
import math, time, wandb
from fasttrack.delivery.backends.wandb.backend import WandbBackend
from fasttrack.delivery.backends.wandb.outbox import Outbox
from fasttrack.journal.rows import Row, encode_row
from fasttrack.journal.shapes import decode_line

rows = [
    {"a": 0.1, "loss/total": 1e-300, "n": 7, "big": 2**62, "-": -0.0, "wide": 1.5e300},
    {"a.b": 1.0, "x y": 3, "\\u00e9\\"": 1e16},
    {"a": math.nan, "b": math.inf, "c": -math.inf, "odd": 2**63, "mega": 1e6},
    *[{"a": n / 7, "loss/total": float(n)} for n in range(100)],
    {"a": 123456789.123456789},
]
for name in ("own", "client"):
    run = wandb.init(mode="offline", id=name, settings=wandb.Settings(silent=True))
    run.define_metric("*", step_metric="step")
    outbox = Outbox(run._interface)
    for step, values in enumerate(rows):
        more = {"joined": step * 2}
        if name == "client":
            run.log({**values, "step": step}, step=step)
            run.log({**more, "step": step}, step=step)
        else:
            for seq, part in enumerate((values, more)):
                line = encode_row(seq, step, time.time(), part)
                outbox.take(step, decode_line(line[:-1]), None)
    if name == "own":
        last = outbox.end()
        run.log(last.values(), step=last.step)
    run.finish()
"""


class Interface:
    """wandb's side of the outbox; keeps what reaches the socket."""

    def __init__(self, broken: Exception | None = None) -> None:
        """Fail every send with `broken`."""
        self.posts: list[bytes] = []
        self._broken = broken
        self._asyncer = SimpleNamespace(run=self._run)
        self._client = SimpleNamespace(
            _writer=SimpleNamespace(write=self.posts.append), _drain_writer=self._drain
        )
        self._stream_id = "stream01"

    def _run(self, function: Callable[[], Awaitable[None]]) -> None:
        asyncio.run(function())  # type: ignore[arg-type]

    async def _drain(self) -> None:
        if self._broken is not None:
            raise self._broken

    def records(self) -> list[Any]:
        """Return what was sent, as wandb-core reads it."""
        from wandb.proto.wandb_server_pb2 import ServerRequest  # type: ignore[attr-defined]

        sent, place, records = b"".join(self.posts), 0, []
        while place < len(sent):
            letter, length = struct.unpack_from("<cI", sent, place)
            assert letter == b"W"
            place += 5
            request = ServerRequest.FromString(sent[place : place + length])
            records.append(request.record_publish)
            place += length
        return records


def told(items: Any) -> dict[str, str]:
    """Return items by name."""
    return {item.key: item.value_json for item in items}


def spelled(value: float) -> str:
    """Return a number such that NaN is NaN, and -0.0 is 0.0: in the client's JSON it is -0."""
    return repr(float(value) + 0.0)


def fill(outbox: Outbox, rows: int, first: int = 0) -> None:
    """Have the outbox take rows, one line each."""
    for step in range(first, first + rows):
        outbox.take(step, Row(step, step, 100.0 + step, {"a": step / 2}), None)


def summary_of(directory: Path) -> dict[str, float]:
    """Return the summary that a run's file adds up to."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    (file,) = directory.glob("run-*.wandb")
    summary = {}
    for payload in read_payloads(file):
        for item in Record.FromString(payload).summary.update:
            summary["/".join(item.nested_key) or item.key] = float(item.value_json)
    return summary


def test_what_it_writes_is_what_run_log_writes(tmp_path: Path) -> None:
    """Same lines, same names, same numbers, and the same summary, in the file that is synced."""
    run_script(BOTH_WAYS, fresh=True)

    own, client = (
        directory
        for name in ("own", "client")
        for directory in offline_dirs(tmp_path)
        if directory.name.endswith(name)
    )
    mine, theirs = wandb_rows(own), wandb_rows(client)
    assert len(mine) == len(theirs) == 104
    for one, other in zip(mine, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"_timestamp", "_runtime"}:
            assert spelled(one[name]) == spelled(other[name])
        assert abs(one["_timestamp"] - other["_timestamp"]) < 600
        assert abs(one["_runtime"] - other["_runtime"]) < 600
    summaries = [summary_of(directory) for directory in (own, client)]
    for summary in summaries:
        assert summary.pop("_timestamp") > 1e9
        assert 0 <= summary.pop("_runtime") < 600
        assert 0 <= summary.pop("_wandb/runtime") < 600
    mine_summed, theirs_summed = (
        {name: spelled(value) for name, value in summary.items()} for summary in summaries
    )
    assert mine_summed == theirs_summed


def test_a_line_is_a_record_of_wandbs_own() -> None:
    """Every field stands where the client's protobuf reads it; long names and steps, too."""
    interface = Interface()
    outbox = Outbox(interface, runtime_s=5.0, wall=lambda: 100.0)
    step = 2**40 + 18
    name = "é" * 200
    outbox.take(step, Row(0, -3, 107.5, {name: 0.25, "n": 2**63}), None, late=True)
    outbox.take(step + 1, Row(1, 9, 108.0, {"n": 1}), None)
    outbox.post()

    history, summary = interface.records()
    assert history._info.stream_id == summary._info.stream_id == "stream01"
    assert history.history.step.num == step
    expected = {
        name: "0.25",
        "n": str(2**63),
        "step": "-3",
        "_step": str(step),
        "_timestamp": "107.5",
        "_runtime": "12.500",
        "time/logged_at": "107.5",
    }
    assert told(history.history.item) == expected
    assert told(summary.summary.update) == expected


def test_lines_go_together_and_in_order() -> None:
    """Full batches go by themselves, the rest with `post`, and an empty outbox sends nothing."""
    interface = Interface()
    outbox = Outbox(interface)
    fill(outbox, 2500)
    outbox.post()
    outbox.post()

    steps = [r.history.step.num for r in interface.records() if r.HasField("history")]
    assert len(interface.posts) == 3
    assert steps == list(range(2499))


def test_the_open_line_is_the_clients() -> None:
    """The last one goes through `run.log`; all before it is posted, with a summary of the rest."""
    interface = Interface()
    outbox = Outbox(interface)
    fill(outbox, 10)
    last = outbox.end()

    assert last is not None
    assert (last.step, last.values()) == (9, {"a": 4.5, "step": 9})
    assert outbox.end() is None
    *_, summary = interface.records()
    assert told(summary.summary.update)["a"] == "4.0"


def test_a_summary_comes_with_the_first_line_and_then_every_few_seconds() -> None:
    """It costs as much as a line; of each kind of line the last one's values are in it."""
    interface, now_s = Interface(), [0.0]
    outbox = Outbox(interface, clock=lambda: now_s[0])
    for second in range(12):
        now_s[0] = float(second)
        fill(outbox, 20, first=20 * second)
        step = 20 * second + 19
        outbox.take(step, Row(0, step, 0.0, {f"other{second % 3}": second}), None)
        outbox.post()

    summaries = [told(r.summary.update) for r in interface.records() if r.HasField("summary")]
    assert [told["_step"] for told in summaries] == ["0", "118", "218"]
    assert summaries[1].keys() >= {"other0", "other1", "other2"}


def test_what_is_there_already_is_in_the_summary() -> None:
    """Of rows that an earlier session has handed over, the last of each kind; before what follows.

    wandb-core may have died after it sent their lines, and before the summary of them.
    """
    interface = Interface()
    outbox = Outbox(interface)
    for step in range(5):
        outbox.recall(4, Row(step, step, 100.0, {"a": step / 2}), None)
    outbox.recall(4, Row(5, 2, 100.0, {"b": 1.0, "_step": 7}), {"b": 1.0})
    fill(outbox, 2, first=5)
    outbox.end()

    records = interface.records()
    assert [record.history.step.num for record in records if record.HasField("history")] == [5]
    *_, summary = (told(r.summary.update) for r in records if r.HasField("summary"))
    assert (summary["a"], summary["b"], summary["_step"]) == ("2.5", "1.0", "5")


def test_where_all_is_there_already_the_summary_is_sent_all_the_same() -> None:
    """Nothing else is left to be said of such a run."""
    interface = Interface()
    outbox = Outbox(interface)
    outbox.recall(3, Row(0, 3, 100.0, {"a": 0.5}), None)

    assert outbox.end() is None
    (record,) = interface.records()
    assert told(record.summary.update)["a"] == "0.5"
    assert told(record.summary.update)["_step"] == "3"


def test_a_dead_core_is_heard_of() -> None:
    """What the socket raises comes out of `post`."""
    outbox = Outbox(Interface(ConnectionResetError("gone")))
    fill(outbox, 2)

    with pytest.raises(ConnectionResetError, match="gone"):
        outbox.post()


@pytest.mark.parametrize("name", ["_asyncer", "_client", "_stream_id"])
def test_a_client_without_the_names_has_no_outbox(name: str) -> None:
    """With another client's insides rows go one by one, as `run.log` sends them."""
    interface = Interface()
    delattr(interface, name)

    with pytest.raises(AttributeError):
        Outbox(interface)
