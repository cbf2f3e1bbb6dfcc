"""`fasttrack compare`: what differs, a line each."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from support.journals import finish, row, write_attempt

from fasttrack.cli.app import cli
from fasttrack.journal.entries import Config

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path) -> None:
    """Three runs: another learning rate, another size and a metric that one does not have."""
    shared = {"seed": 1, "model": {"depth": 4, "name": "cnn"}, "flag": True}
    write_attempt(
        tmp_path,
        "first",
        row(0, 0, loss=1.0),
        row(1, 10, loss=0.5, bad=math.nan, count=2**60),
        finish(),
        config={**shared, "lr": 0.1},
    )
    write_attempt(
        tmp_path,
        "second",
        row(0, 10, loss=0.25, bad=1.0, count=2**60 + 1),
        config={**shared, "lr": 0.1, "seed": 1.0},
    )
    write_attempt(
        tmp_path,
        "second",
        Config({"lr": 0.01}),
        row(0, 20, loss=0.125, accuracy=0.5),
        finish(3),
        config={},
    )
    write_attempt(
        tmp_path,
        "third",
        row(0, 5, loss=math.inf),
        finish(),
        config={"lr": 0.1, "model": {"depth": 8, "name": "cnn"}, "flag": 1, "seed": 1},
    )


def compare(*words: str) -> Result:
    """Call the command in this process."""
    return CliRunner().invoke(cli, ["compare", *words])


def test_what_differs_is_a_line_each() -> None:
    """Settings of all attempts together; the last values, and the difference from the first's."""
    result = compare("first", "second")
    lines = [line.split() for line in result.stdout.splitlines()]

    assert result.exit_code == 0, result.output
    assert lines[0] == ["first", "second"]
    assert ["state", "finished", "failed"] in lines
    assert ["lr", "0.1", "0.01"] in lines
    assert ["loss", "0.5", "0.125", "(-0.375)"] in lines
    assert ["accuracy", "-", "0.5"] in lines
    assert "config: 1 differ, 4 settings are alike" in result.stdout
    assert len(lines) == 3 + 1 + 1 + 1 + 4


def test_json_has_all_of_it_in_full() -> None:
    """Also what the table has shortened; values in the order in which the runs were named."""
    told = json.loads(compare("third", "first", "second", "--json").stdout)
    settings = {one["name"]: one["values"] for one in told["config"]}
    metrics = {one["name"]: one for one in told["metrics"]}

    assert [run["run_id"] for run in told["runs"]] == ["third", "first", "second"]
    assert settings == {
        "flag": [1, True, True],
        "lr": [0.1, 0.1, 0.01],
        "model.depth": [8, 4, 4],
    }
    assert told["same_config"] == 2  # 1 and 1.0 are one seed
    assert metrics["loss"]["values"] == ["Infinity", 0.5, 0.125]
    assert metrics["loss"]["deltas"] == [None, None, None]
    assert metrics["loss"]["steps"] == [5, 10, 20]
    assert metrics["count"]["values"] == [None, 2**60, 2**60 + 1]
    pair = json.loads(compare("first", "second", "--json").stdout)["metrics"]
    assert {one["name"]: one["deltas"] for one in pair} == {
        "loss": [0, -0.375],
        "bad": [None, None],
        "count": [0, 1],
        "accuracy": [None, None],
    }


def test_a_setting_that_one_run_lacks_is_told_apart_from_null(tmp_path: Path) -> None:
    """Both are nothing; only one was said."""
    write_attempt(tmp_path, "null", row(0, 0, loss=1.0), config={"lr": None})
    write_attempt(tmp_path, "none", row(0, 0, loss=1.0), config={})
    told = json.loads(compare("null", "none", "--json").stdout)

    assert told["config"] == [{"name": "lr", "values": [None, None], "present": [True, False]}]
    assert ["lr", "null", "-"] in [
        line.split() for line in compare("null", "none").stdout.split("\n")
    ]


def test_metrics_are_chosen_by_pattern_and_a_wrong_one_says_what_there_is() -> None:
    """As everywhere."""
    told = json.loads(compare("first", "second", "-m", "a*", "-m", "loss", "--json").stdout)
    wrong = compare("first", "second", "-m", "nosuch")

    assert [one["name"] for one in told["metrics"]] == ["accuracy", "loss"]
    assert wrong.exit_code == 1
    assert wrong.stderr == (
        "fasttrack: the runs have no metric 'nosuch'; they have: accuracy, bad, count, loss\n"
    )


def test_of_runs_that_have_little_in_common_the_first_are_printed(tmp_path: Path) -> None:
    """Those that all have come first, the others are counted; all of them are to be had."""
    many = {f"setting{number:03d}": number for number in range(50)}
    metrics = {f"metric{number:03d}": float(number) for number in range(50)}
    write_attempt(tmp_path, "many", row(0, 0, **metrics, zloss=1.0), config={**many, "zlr": 1})
    write_attempt(tmp_path, "few", row(0, 0, zloss=2.0), config={"zlr": 2})
    lines = compare("many", "few").stdout.splitlines()
    config = lines.index("config: 51 differ, none is alike")
    whole = compare("many", "few", "--all").stdout
    chosen = compare("many", "few", "-m", "metric*").stdout

    assert lines[config + 1].split() == ["zlr", "1", "2"]
    assert lines[config + 30].split() == ["setting028", "28", "-"]
    assert lines[config + 31] == "  and 21 more: --all"
    assert lines[config + 33].split() == ["zloss", "1", "2", "(+1)"]
    assert lines[config + 63] == "  and 21 more: --all, or -m PATTERN"
    assert len(lines) == config + 64
    assert all(name in whole for name in (*many, *metrics))
    assert "more" not in whole
    assert all(name in chosen for name in metrics)
    assert "setting049" not in chosen
    assert len(json.loads(compare("many", "few", "--json").stdout)["config"]) == 51


@pytest.mark.parametrize("words", [["first"], ["first", "first"]])
def test_one_run_is_wrong_usage(words: list[str]) -> None:
    """There is nothing to compare it with."""
    result = compare(*words)

    assert result.exit_code == 2
    assert "name two different runs, or more" in result.stderr


def test_unknown_run_is_one_line_and_code_2() -> None:
    """It names the run."""
    result = compare("first", "nosuch")

    assert result.exit_code == 2
    assert result.stderr.startswith("fasttrack: no run 'nosuch' in ")
    assert result.stderr.count("\n") == 1
