"""Configurations and names that W&B's client takes for something else: rows arrive all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.runs import deliver, make_tracker, run_dir

if TYPE_CHECKING:
    from pathlib import Path

    from support.wandb_server import WandbServer

pytestmark = pytest.mark.server

REFERENCE = "wandb-artifact://abcdef"
POISON: dict[str, Any] = {
    "_type": "artifactVersion",
    "_wandb": {"t": 1},
    "artifact": {"_type": "artifactVersion", "id": "x"},
    "list": [{"_type": "artifactVersion"}, REFERENCE],
    "file": {"_type": "table-file", "path": "x"},
    "-": 1,
    "": 2,
    "deep": {"a": {"b": {"_type": "artifactVersion", "c": REFERENCE}}},
    "dot.ted": REFERENCE,
    "lr": 0.1,
}


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_no_configuration_makes_a_run_undeliverable(
    server: WandbServer, tmp_path: Path, mode: str
) -> None:
    """`config={"_type": "artifactVersion"}` was taken for a file's name, for ever."""
    with make_tracker(mode=mode, config=POISON, group="g" * 128) as tracker:
        tracker.log_metrics({"loss": 1.0}, 0)
        tracker.update_config({"_type": "artifactVersion"})
        tracker.update_config({"later": POISON})
        tracker.log_metrics({"loss": 2.0}, 1)
    if mode == "offline":
        assert deliver(run_dir(tmp_path, tracker.get_run_id()), fresh=True)["delivered"]

    run = server.runs[str(tracker.get_run_id())]
    assert [row["loss"] for row in run.history] == [1.0, 2.0]
    assert run.config["lr"] == 0.1
    assert run.config["later"]["lr"] == 0.1
    assert run.config["artifact"] == {"_type": " artifactVersion", "id": "x"}
