"""The reports of delivery as lines."""

from __future__ import annotations

import dataclasses
import json

import pytest

from fasttrack.delivery import events
from fasttrack.delivery.events import (
    Beat,
    Busy,
    Done,
    Event,
    LeftOut,
    Offline,
    Online,
    Progress,
    Said,
    StopAsked,
    Trouble,
    Upload,
)

EVERY_KIND: list[Event] = [
    Online(backend="wandb", url="https://wandb.ai/x", directory="/runs/x"),
    Offline(backend="wandb", directory="/runs/x", reason="DNS"),
    Trouble(backend="wandb", reason='the "server" went away\n', rows=7),
    Progress(backend="tensorboard", rows=2**40, uploaded_bytes=None),
    Upload(
        backend="wandb",
        number=3,
        name="model-x",
        state="failed",
        size_bytes=5,
        aliases=("best", "step10"),
        reason="HTTP 403",
    ),
    LeftOut(backend="wandb", what="segment-0001.jsonl:3 (not JSON)"),
    Done(backend="wandb", delivered=True, already=True, offline=True, rows=3, proof="3 rows"),
    StopAsked(backend="wandb"),
    Beat(),
    Said(key="alert:crash:1", text="the training process died"),
    Busy(),
]


@pytest.mark.parametrize("event", EVERY_KIND, ids=lambda event: str(event.event))
def test_what_is_read_is_what_was_written(event: Event) -> None:
    """One line, whatever stands in it."""
    line = events.encode(event)

    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert events.decode(line) == event
    assert json.loads(line)["event"] == event.event


def test_a_file_name_that_is_not_utf_8_is_told_in_ascii() -> None:
    """Python spells its bytes as lone surrogates, which JSON cannot hold."""
    event = Done(
        backend="wandb", delivered=False, reason="m\udcff.pt changed", directory="/d\udcff"
    )
    told = events.decode(events.encode(event))

    assert told == dataclasses.replace(event, reason=r"m\udcff.pt changed", directory=r"/d\udcff")


def test_every_kind_is_tried_here() -> None:
    """A new one gets a line above."""
    assert {type(event) for event in EVERY_KIND} == set(events._CLASSES.values())


@pytest.mark.parametrize(
    "line",
    [
        b"wandb: something that a client printed",
        b"[1, 2]",
        b'{"rows": 3}',
        b'{"event": "no such event"}',
        b'{"event": "progress", "rows": 3}',
        b'{"event": "progress", "backend": "wandb", "rows": 3, "more": 1}',
    ],
)
def test_what_is_no_report_is_a_value_error(line: bytes) -> None:
    """A client may print on the same stream."""
    with pytest.raises(ValueError, match=r"report of delivery|unexpected|expected"):
        events.decode(line)
