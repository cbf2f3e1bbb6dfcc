"""`fasttrack show`: all that is known of a run, in a terminal and as JSON."""

from __future__ import annotations

import json
import math
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from support.journals import TAGS, finish, row, rows_of, write_attempt, write_proofs

from fasttrack.cli.app import cli
from fasttrack.journal.entries import Artifact, Config, Metadata
from fasttrack.journal.media import MediaRow
from fasttrack.runs.opened import open_run

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 50
LONG = "train/optimizer/parameter_group_0/the_really_long_name_of_a_layer/gradient_norm"
LONG_KEY = "optimizer.a_very_long_name_of_a_group.weight_decay_of_the_biases"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """The directory of a run of two attempts, each proven to be in an offline directory."""
    values = {
        "loss": [1 / (step + 1) for step in range(ROWS)],
        "train/lr": [math.nan if step == 7 else 0.1 for step in range(ROWS)],
        "perf/step_time_ms/p99": [1.0] * ROWS,
        LONG: [1.0],
    }
    write_attempt(tmp_path, "finished", *rows_of(values), finish())
    group = {"weight_decay_of_the_biases": 0}
    config = {"batch": {"size": 4}, "optimizer": {"a_very_long_name_of_a_group": group}}
    entry = row(0, ROWS, eval__ok=True, eval__loss=math.inf)
    run_dir = write_attempt(tmp_path, "finished", entry, finish(), config=config).parent
    write_proofs(run_dir, offline_proof="rows read back from offline-run-1")
    return run_dir


def show(*arguments: object, columns: int = 80) -> str:
    """Call the command in this process, in a terminal of so many columns; return its output."""
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(cli, ["show", *map(str, arguments)])
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def show_json(*arguments: object) -> dict[str, Any]:
    """Call the command with --json and return what it printed."""
    told: dict[str, Any] = json.loads(show(*arguments, "--json"))
    return told


def test_show_tells_all_that_is_known_as_json(run_dir: Path) -> None:
    """Facts, config of all attempts, proofs and what became of each metric."""
    shown = show_json("finished")
    del shown["metrics"]["perf/step_time_ms/p99"], shown["metrics"][LONG]

    assert (shown["config"]["lr"], shown["config"]["batch"]) == (0.1, {"size": 4})
    assert shown["header"]["tags"] == list(TAGS)
    assert [segment["rows"] for segment in shown["segments"]] == [ROWS, 1]
    assert all("read back from" in segment["offline"] for segment in shown["segments"])
    assert shown["metrics"] == {
        "loss": {"count": 50, "non_finite": 0, "last": 0.02, "min": 0.02, "max": 1.0},
        "train/lr": {"count": 50, "non_finite": 1, "last": 0.1, "min": 0.1, "max": 0.1},
        "eval/ok": {"count": 1, "non_finite": 0, "last": True, "min": True, "max": True},
        "eval/loss": {
            "count": 1,
            "non_finite": 1,
            "last": "Infinity",
            "min": None,
            "max": None,
        },
    }
    assert shown["bad_lines"] == 0
    assert shown["backends"]["wandb"]["delivered"] == shown["delivered"] == "offline dir"
    assert shown["backends"]["wandb"]["segments"] == shown["segments"]


def test_show_draws_each_metric_within_80_columns(run_dir: Path) -> None:
    """A course in letters, "!" where values are not finite."""
    output = show("finished")
    lines = {line.split()[0]: line for line in output.splitlines() if line.strip()}

    assert max(len(line) for line in output.splitlines()) <= 80
    assert lines["loss"].split()[1:5] == ["50", "0.02", "0.02", "1"]
    assert lines["loss"].split()[5].startswith("█")
    assert "!" in lines["train/lr"]
    assert lines["eval/loss"].split()[2:] == ["inf", "-", "-", "!"]
    assert lines["batch.size"].split() == ["batch.size", "4"]
    assert lines["state"].split(maxsplit=1)[1].strip() == "finished (exit code 0)"
    assert "\x1b" not in output


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ({"data": [30.0, 40.0]}, "waiting for data: 35.0% of the training time"),
        ({"data": [30.0], "others": [31.0]}, "waiting for others: 31.0% of the training time"),
        ({"others": [20.0]}, "waiting for others: 20.0% of the training time"),
        (
            {"data": [19.9], "others": [1.0]},
            "compute-bound: 19.9% of the training time waits for data, 1.0% for other ranks",
        ),
        ({"data": [2.0]}, "compute-bound: 2.0% of the training time waits for data"),
        ({"others": [1.0]}, None),
        ({"forward": [90.0]}, None),
    ],
    ids=range(7),
)
def test_show_judges_what_bounds_the_run(
    tmp_path: Path, phases: dict[str, list[float]], said: str | None
) -> None:
    """In one line, where it was measured; as JSON, too."""
    values = {f"perf/phase_pct/{name}": shares for name, shares in phases.items()}
    write_attempt(tmp_path, "ab12", *rows_of(values), finish())
    lines = [line.strip() for line in show("ab12", columns=200).splitlines()]
    told = show_json("ab12")["verdict"]

    assert [" ".join(line.split()[1:]) for line in lines if line.startswith("verdict")] == (
        [said] if said else []
    )
    assert (told is None) is (said is None)
    if said is not None:
        assert said.startswith(
            {"data": "waiting for data", "others": "waiting for others"}.get(
                told["bound_by"], "compute-bound"
            )
        )


def test_what_is_not_measured_of_several_ranks_is_said(tmp_path: Path) -> None:
    """Compute-bound, as far as is known."""
    values = {"perf/phase_pct/data": [2.0]}
    write_attempt(tmp_path, "ab12", *rows_of(values), finish(), world_size=4)

    assert "what waits for other ranks is not measured" in show("ab12", columns=200)


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_names_are_never_broken(run_dir: Path, columns: int) -> None:
    """A metric or configuration key that was broken could neither be found nor copied."""
    output = show("finished", columns=columns)
    lines = [line.strip() for line in output.splitlines()]
    numbers = [line.split() for line in lines if line.startswith(("perf/step_time_ms/p99", "50 "))]

    assert "perf/step_time_ms/p99" in output
    assert LONG in output
    assert LONG_KEY in lines
    assert lines[lines.index(LONG_KEY) + 1] == "0"
    assert any(words[-4:-1] == ["1", "1", "1"] for words in numbers)


def test_long_metric_stands_above_its_numbers(run_dir: Path) -> None:
    """In their columns as ever; where the terminal is wide, all of it is one line."""
    narrow = show("finished").splitlines()
    wide = show("finished", columns=200).splitlines()
    at = narrow.index(LONG)
    header = next(line for line in narrow if line.startswith("metric "))

    assert narrow[at + 1].split()[:4] == ["1", "1", "1", "1"]
    assert narrow[at + 1].index("1") == header.index("rows") + len("rows") - 1
    assert next(line for line in wide if line.startswith(LONG)).split()[1:5] == ["1"] * 4


def test_nothing_is_broken_where_no_terminal_says_how_wide_it_is(run_dir: Path) -> None:
    """A path in two lines could neither be searched for nor copied."""
    result = CliRunner(env={"COLUMNS": None}).invoke(cli, ["show", "finished"])

    assert f"  directory   {run_dir}\n" in result.stdout
    assert "rows read back from offline-run-1\n" in result.stdout


def test_metrics_of_every_run_fit_80_columns(tmp_path: Path) -> None:
    """The longest name that fasttrack itself logs stands beside its numbers."""
    write_attempt(tmp_path, "ab12", *rows_of({"fasttrack/delivery_lag_rows": [1, 2]}), finish())
    lines = show("ab12").splitlines()
    (line,) = [line for line in lines if line.startswith("fasttrack/delivery_lag_rows")]

    assert line.split()[1:] == ["2", "2", "1", "2", "▁█"]
    assert len(line) <= 80


def test_show_names_each_backends_word_and_proofs(tmp_path: Path) -> None:
    """One line for all words; then what proves them."""
    backends = ("wandb", "tensorboard")
    segment = write_attempt(tmp_path, "ab", row(0, 0, loss=1.0), finish(), backends=backends)
    write_proofs(segment.parent, "tensorboard", proof="1 rows read back", directory="/t/ab")
    lines = [" ".join(line.split()) for line in show("ab").splitlines()]

    assert "delivered wandb: no, tensorboard: files" in lines
    assert "wandb attempt 1 1 rows; nothing is proven" in lines
    assert "tensorboard attempt 1 1 rows; files: 1 rows read back" in lines
    assert "tensorboard directory /t/ab" in lines
    assert set(show_json("ab")["backends"]) == set(backends)


def test_show_of_one_backend_says_its_word_alone(run_dir: Path) -> None:
    """As ever."""
    lines = [" ".join(line.split()) for line in show("finished").splitlines()]

    assert "delivered offline dir" in lines
    assert "attempt 1 50 rows; offline: rows read back from offline-run-1" in lines


def test_show_tells_metadata_config_and_artifacts_that_were_logged(tmp_path: Path) -> None:
    """As `get_metadata`, `log_config` and `log_checkpoint` have recorded them."""
    weights = Artifact(
        number=2, type="model", name="weights", aliases=("best",), directory="d", size_bytes=1000
    )
    logged = Artifact(number=1, type="config", name="config", directory="d", size_bytes=10)
    write_attempt(
        tmp_path,
        "ab",
        Metadata({"git": {"commit": "a1b2"}}),
        Config({"optimizer": {"name": "adamw"}}),
        logged,
        weights,
        finish(),
    )
    shown = show_json("ab")
    text = show("ab")

    assert shown["metadata"] == {"git": {"commit": "a1b2"}}
    assert shown["config"] == {"lr": 0.1, "optimizer": {"name": "adamw"}}
    assert {(a["type"], a["delivery"]) for a in shown["artifacts"]} == {
        ("config", None),
        ("model", None),
    }
    assert next(a for a in shown["artifacts"] if a["type"] == "model")["size_bytes"] == 1000
    for words in ("optimizer.name", "adamw", "best", "not delivered", "git.commit", "1000 bytes"):
        assert words in text


def test_run_whose_header_is_damaged_is_still_shown(tmp_path: Path) -> None:
    """Its directory names it."""
    segment = write_attempt(tmp_path, "ab", row(0, 0, loss=1.0))
    segment.write_bytes(b"\x00\n" + segment.read_bytes().split(b"\n", 1)[1])
    result = CliRunner().invoke(cli, ["show", "ab"])

    assert result.exit_code == 0
    assert "run ab" in result.stdout
    assert result.stderr.splitlines() == [
        f"fasttrack: 1 damaged lines of {segment.parent} were left out:",
        "fasttrack:   segment-0001.jsonl:1 (not JSON)",
    ]


def test_copied_directory_is_shown_as_it_stands(run_dir: Path, tmp_path: Path) -> None:
    """Segments are all it takes."""
    copy = tmp_path / "x" / "ab12"
    copy.mkdir(parents=True)
    for path in run_dir.glob("segment-*"):
        shutil.copy(path, copy)

    shown = show_json(copy)

    assert (shown["run_id"], shown["rows"], shown["delivered"]) == ("finished", ROWS + 1, "no")
    assert sorted(os.listdir(copy)) == ["segment-0001.jsonl", "segment-0002.jsonl"]


def test_metrics_of_many_nodes_are_counted_and_not_listed(tmp_path: Path) -> None:
    """In the table alone; of a few nodes they stand there."""
    few = {f"host/n{number}/cpu_pct": [1.0] for number in range(3)}
    many = {f"gpu/n{number}/0/power_w": [1.0] for number in range(41)}
    write_attempt(tmp_path, "few", *rows_of({"loss": [1.0], **few}), finish())
    write_attempt(tmp_path, "many", *rows_of({"loss": [1.0], **many}), finish())

    assert "host/n2/cpu_pct" in show("few")
    shown = show("many")
    assert "loss" in shown
    assert "gpu/n2/0/power_w" not in shown
    assert "and 41 metrics of nodes' hardware" in shown
    assert len(show_json("many")["metrics"]) == 42


def test_media_are_counted_by_kind_with_the_newest_of_each(tmp_path: Path) -> None:
    """Its files are where the run's media lie; a run without any says nothing of them."""
    first, second = "0" * 20 + ".png", "1" * 20 + ".png"
    images = [
        MediaRow(0, 0, 1e9, name="val/worst", type="image", files=(first,)),
        MediaRow(1, 5, 2e9, name="val/samples", type="image", files=(second, first)),
    ]
    bins = {"counts": [1, 2], "bins": [0, 1, 2]}
    histogram = MediaRow(2, 6, 2e9, name="weights", type="histogram", about=bins)
    write_attempt(tmp_path, "seen", images[0], finish())
    segment = write_attempt(tmp_path, "seen", images[1], row(2, 5, loss=0.5), histogram, finish())
    write_attempt(tmp_path, "plain", row(0, 0, loss=0.5), finish())
    lines = show("seen", columns=400).splitlines()
    start = lines.index("media")
    path = open_run("seen").media("val/samples")[-1].path
    told = show_json("seen")

    assert path == segment.parent / "media" / second
    assert [" ".join(line.split()) for line in lines[start + 1 : start + 3]] == [
        f"image 2; the newest is val/samples at step 5, {path} and 1 more",
        "histogram 1; the newest is weights at step 6",
    ]
    assert told["media"]["image"] == {
        "count": 2,
        "name": "val/samples",
        "step": 5,
        "attempt": 2,
        "time": 2e9,
        "files": [str(path), str(path.with_name(first))],
    }
    assert list(told["metrics"]) == ["loss"]
    assert "media" not in show("plain").split()
