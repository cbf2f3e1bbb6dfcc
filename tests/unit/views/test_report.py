"""All that is known of a run, as values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from support.journals import finish, row, write_attempt, write_proofs

from fasttrack.journal.entries import Artifact, Config, Metadata
from fasttrack.runs import find_run
from fasttrack.views.report import flatten, read_overview, read_report

if TYPE_CHECKING:
    from pathlib import Path

OVERVIEW = {
    *("run_id", "name", "project", "entity", "state", "exit_code", "rows", "attempts"),
    *("started", "delivered", "proofs", "url", "backends", "directory"),
}


def test_overview_is_plain_json_with_a_part_for_each_backend(tmp_path: Path) -> None:
    """`delivered` is the worst word."""
    backends = ("wandb", "tensorboard")
    segment = write_attempt(tmp_path, "ab", row(0, 0, loss=1.0), finish(3), backends=backends)
    write_proofs(segment.parent, "tensorboard", proof="1 row read", directory="/t/ab")
    told = read_overview(find_run("ab")).as_json()

    assert set(told) == OVERVIEW
    assert (told["state"], told["exit_code"], told["rows"], told["attempts"]) == ("failed", 3, 1, 1)
    assert (told["delivered"], told["proofs"], told["url"]) == ("no", ["1 row read"], None)
    assert told["backends"] == {
        "wandb": {"delivered": "no", "proofs": [], "url": None, "directory": None},
        "tensorboard": {
            "delivered": "files",
            "proofs": ["1 row read"],
            "url": None,
            "directory": "/t/ab",
        },
    }
    assert json.loads(json.dumps(told)) == told


def test_report_gathers_what_all_attempts_have_logged(tmp_path: Path) -> None:
    """Configuration of later attempts beats that of earlier ones; artifacts know their attempt."""
    artifact = Artifact(
        number=1,
        type="model",
        name="weights",
        aliases=("best",),
        directory="artifacts/segment-0001/0001",
        files=1,
        size_bytes=1000,
        step=4,
        time_s=5.0,
    )
    write_attempt(
        tmp_path,
        "ab",
        Metadata({"git": {"commit": "a1"}}),
        artifact,
        row(0, 0, loss=1.0),
        config={"lr": 0.1, "batch": {"size": 4}},
    )
    write_attempt(tmp_path, "ab", Config({"lr": 0.2}), row(0, 1, loss=0.5), finish(), config={})
    write_proofs(find_run("ab").directory, proof="seen")
    report = read_report(find_run("ab"))
    told = report.as_json()

    assert report.config == {"lr": 0.2, "batch": {"size": 4}}
    assert told["metadata"] == {"git": {"commit": "a1"}}
    assert told["artifacts"] == [
        {
            **{"attempt": 1, "number": 1, "type": "model", "name": "weights", "aliases": ["best"]},
            **{"directory": "artifacts/segment-0001/0001", "files": 1, "size_bytes": 1000},
            **{"step": 4, "time": 5.0, "delivery": None},
        }
    ]
    assert told["segments"] == [
        {"attempt": 1, "rows": 1, "server": "seen", "offline": None},
        {"attempt": 2, "rows": 1, "server": "seen", "offline": None},
    ]
    assert told["metrics"] == {
        "loss": {"count": 2, "non_finite": 0, "last": 0.5, "min": 0.5, "max": 1.0}
    }
    assert (told["bad_lines"], told["offline_directories"]) == (0, [])
    assert json.loads(json.dumps(told)) == told


def test_report_of_a_damaged_header_lacks_only_what_stood_there(tmp_path: Path) -> None:
    """It is still a run."""
    segment = write_attempt(tmp_path, "ab", row(0, 0, loss=1.0))
    segment.write_bytes(b"{\n" + segment.read_bytes().split(b"\n", 1)[1])
    told = read_report(find_run("ab")).as_json()

    assert (told["header"], told["project"], told["name"], told["bad_lines"]) == ({}, None, None, 1)
    assert (told["run_id"], told["rows"], told["delivered"]) == ("ab", 1, "no")


def test_nested_configuration_is_named_with_dots_as_wandb_does() -> None:
    """What is empty keeps its place."""
    nested = {"optimizer": {"lr": 0.1, "groups": {"a": 1}}, "x": [1, {"y": 2}], "empty": {}}

    assert flatten(nested) == {
        "optimizer.lr": 0.1,
        "optimizer.groups.a": 1,
        "x": [1, {"y": 2}],
        "empty": {},
    }
