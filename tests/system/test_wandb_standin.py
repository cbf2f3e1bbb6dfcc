"""`import fasttrack.wandb as wandb`: the same calls, to W&B's client and to ours, compared."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.runs import HANG_GUARD_S, program_environment
from support.wandb_files import WandbFile, read_wandb_file
from support.wandb_stories import STORIES

if TYPE_CHECKING:
    from collections.abc import Callable

_STORIES = Path(__file__).parents[1] / "support" / "wandb_stories.py"
_OTHERWISE_NAMED = {  # files are named after what they hold, uncompressed; artifacts, by chance
    *("picture.path", "examples.filenames", "table.path", "sound.path", "page.path"),
    *("table.artifact_path", "table._latest_artifact_path"),
}
_NOT_KEPT = {"values": {"text", "list"}, "media": _OTHERWISE_NAMED}
"""Metrics that are no numbers, by story: documented, and said. Of media, names of files."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], list[WandbFile]]:
    """Return what the `.wandb` files say that a client has written of a story, oldest first."""
    places = {}
    for client in ("wandb", "fasttrack.wandb"):
        places[client] = directory = tmp_path_factory.mktemp(client)
        subprocess.run(
            [sys.executable, "-W", "error", str(_STORIES), client, *STORIES],
            check=True,
            cwd=directory,
            timeout=HANG_GUARD_S,
            env={
                **program_environment(),
                "WANDB_DIR": str(directory),
                "WANDB_MODE": "offline",
                "WANDB_CONSOLE": "off",
                "WANDB_ERROR_REPORTING": "false",
                "HOME": str(directory),
            },
        )

    def read(client: str, name: str) -> list[WandbFile]:
        found = sorted(places[client].glob(f"wandb/offline-run-*-{name}"))
        assert found, f"{client} has written nothing of {name}"
        return [read_wandb_file(each) for each in found]

    return read


@pytest.mark.parametrize("name", STORIES)
def test_rows_are_those_of_the_client(
    told: Callable[[str, str], list[WandbFile]], name: str
) -> None:
    """Each value under its name, at its `_step`; ours have the axis `step` besides."""
    left_out = _NOT_KEPT.get(name, set())
    theirs = [row for file in told("wandb", name) for row in file.rows]
    ours = [row for file in told("fasttrack.wandb", name) for row in file.rows]

    assert [row["step"] for row in ours] == [row["_step"] for row in ours]
    assert comparable(ours, {"step", *left_out}) == comparable(theirs, left_out)


@pytest.mark.parametrize("name", STORIES)
def test_the_summary_is_that_of_the_client(
    told: Callable[[str, str], list[WandbFile]], name: str
) -> None:
    """Last values, aggregates that were asked for, and what was set by hand."""
    left_out = _NOT_KEPT.get(name, set())
    theirs, ours = told("wandb", name)[-1].summary, told("fasttrack.wandb", name)[-1].summary

    assert comparable([ours], {"step", *left_out}) == comparable([theirs], left_out)


@pytest.mark.parametrize("name", STORIES)
def test_the_configuration_is_that_of_the_client(
    told: Callable[[str, str], list[WandbFile]], name: str
) -> None:
    """Ours has the facts of the machine and code besides, under `metadata`."""
    (*_, theirs), (*_, ours) = told("wandb", name), told("fasttrack.wandb", name)
    added = {"job_type": theirs.job_type} if theirs.job_type else {}

    kept = {key: value for key, value in ours.config.items() if not key.startswith("metadata")}
    assert kept == {**theirs.config, **added}


@pytest.mark.parametrize("name", STORIES)
def test_what_is_shown_of_the_run_is_the_same(
    told: Callable[[str, str], list[WandbFile]], name: str
) -> None:
    """Name, where one was given, notes, tags, axes and how the run ended."""
    (*_, theirs), (*_, ours) = told("wandb", name), told("fasttrack.wandb", name)

    assert (ours.notes, ours.tags, ours.exit_code) == (theirs.notes, theirs.tags, theirs.exit_code)
    assert ours.name == theirs.name or not theirs.name
    assert ours.axes == {"*": "step", **theirs.axes}


def comparable(rows: list[dict[str, Any]], left_out: set[str]) -> list[dict[str, Any]]:
    """Return rows without some metrics, and with NaN as a text, which equals itself."""
    return [
        {
            key: "NaN" if isinstance(value, float) and math.isnan(value) else value
            for key, value in row.items()
            if key not in left_out and value is not None
        }
        for row in rows
    ]
