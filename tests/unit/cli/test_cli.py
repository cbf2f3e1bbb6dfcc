from __future__ import annotations

import fcntl
import json
import math
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from support.runs import (
    HANG_GUARD_S,
    TAGS,
    journal_rows,
    make_tracker,
    run_dir,
    script_environment,
    wait_until,
)

from fasttrack import Options
from fasttrack.cli.app import COMMANDS, cli
from fasttrack.journal.cursor import load_cursor
from fasttrack.journal.entries import encode
from fasttrack.journal.reader import read_segment
from fasttrack.journal.run_directory import segment_name
from fasttrack.runs.local import RunError, count_rows, find_run, list_runs
from fasttrack.runs.status import find_delivery, find_state
from fasttrack.runs.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

ROWS = 50
SOON = Options(finish_timeout_s=1.0)  # finish() hardly waits; delivery goes on by itself
HEAVY = {"torch", "numpy", "wandb", "matplotlib", "pyarrow", "fasttrack.tracker"}
STARTS_TWO_AND_DIES = """
    import os
    from support.runs import make_tracker

    for run_id, preempted in ("preempted", True), ("crashed", False):
        tracker = make_tracker(resume_id=run_id, name="eo1_ar+fm_lego_20260123_143052_a1b2c3")
        tracker.log_metrics({"loss": 0.5}, 1)
        tracker.preempt() if preempted else tracker.flush()
    os._exit(9)
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with runs that were really recorded; copy it before changing anything."""
    base = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_DIR", str(base))
        patch.setenv("HOME", str(base))
        script = [sys.executable, "-c", textwrap.dedent(STARTS_TWO_AND_DIES)]
        dying = subprocess.Popen(script, env=script_environment())
        failed = make_tracker(resume_id="failed", options=SOON)
        failed.log_metrics({"loss": 1.0}, 0)
        failed.finish(exit_code=3)
        with make_tracker(resume_id="finished", name="two attempts", options=SOON) as tracker:
            for step in range(ROWS):
                values = {"loss": 1 / (step + 1), "train/lr": math.nan if step == 7 else 0.1}
                tracker.log_metrics(values, step)
        config = {"batch": {"size": 4}}
        with make_tracker(resume_id="finished", tags=None, config=config, options=SOON) as tracker:
            tracker.log_metrics({"eval/ok": True, "eval/loss": math.inf}, ROWS)
        assert dying.wait(HANG_GUARD_S) == 9
        wait_until(lambda: {find_delivery(run).word for run in list_runs()} == {"offline dir"})
        for run in list_runs():  # nothing may be written any more when the directory is copied
            with (run.directory / "courier.lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield base


@pytest.fixture
def base(recorded: Path, tmp_path: Path) -> Path:
    """The test's own copy of the recorded runs, where commands look for runs by themselves."""
    shutil.copytree(recorded / "wandb" / "fasttrack", tmp_path / "wandb" / "fasttrack")
    return tmp_path


def call(*arguments: object) -> Result:
    """Call the command line in this process."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def call_json(*arguments: object) -> Any:
    """Call the command line with --json and return what it printed."""
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def change_header(segment: Path, **changes: Any) -> None:
    """Write other facts into a segment's header, as another machine or time would have."""
    header, *lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(encode({**json.loads(header), **changes}) + b"".join(lines))


# --- the command line as a whole ----------------------------------------------------------------


def test_help_and_runs_load_nothing_that_is_slow(base: Path) -> None:
    """`fasttrack runs` is asked for often; no command's module is needed to list them all."""
    code = (
        "import sys\nfrom fasttrack.cli import main\nsys.argv = ['fasttrack', *sys.argv[1:]]\n"
        "try: main()\nfinally: print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    loaded = {}
    for command in ("--help", "runs"):
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, command],
            capture_output=True,
            text=True,
            check=True,
        )
        loaded[command] = set(result.stderr.split())

    assert HEAVY & (loaded["--help"] | loaded["runs"]) == set()
    assert {f"fasttrack.cli.{name}" for name in COMMANDS} & loaded["--help"] == set()
    assert "fasttrack.cli.runs" in loaded["runs"]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_command_of_the_table_exists_and_explains_itself(name: str) -> None:
    """The table is all that knows them."""
    result = call(name, "--help")

    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: cli {name} ")
    assert COMMANDS[name][1] in call("--help").stdout


def test_no_command_is_a_question_for_help() -> None:
    """Who types `fasttrack` wants to know what there is."""
    assert call().stdout == call("--help").stdout
    assert "Exit codes:" in call().stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nosuch"], "No such command 'nosuch'"),
        (["show"], "Missing argument 'RUN'"),
        (["tail", "x", "-n", "many"], "'many' is not a valid integer"),
        (["export", "x", "--format", "xml"], "'xml' is not one of"),
        (["export", "x", "--format", "parquet"], "parquet needs a file: -o FILE"),
        (["sync"], "name the runs, or pass --all"),
        (["sync", "x", "--all"], "name the runs, or pass --all"),
        (["runs", "--dir", "nowhere"], "Directory 'nowhere' does not exist"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(arguments: list[str], text: str) -> None:
    """It names what is wrong and where to read on."""
    result = call(*arguments)

    assert result.exit_code == 2
    assert result.stderr.startswith("fasttrack: ")
    assert text in result.stderr
    assert result.stderr.count("\n") == 1
    assert "--help" in result.stderr


@pytest.mark.parametrize("command", ["show", "tail", "sync", "export --format=csv"])
def test_unknown_run_is_one_line_and_code_1(base: Path, command: str) -> None:
    """It says where was looked and how to see what is there."""
    result = call(*command.split(), "nosuch")

    assert result.exit_code == 1
    assert result.stderr == (
        f"fasttrack: no run 'nosuch' in {base}/wandb/fasttrack; "
        "'fasttrack runs' lists what is there\n"
    )


def test_reader_that_leaves_early_is_no_error(base: Path) -> None:
    """`fasttrack tail ... | head -1` prints a line and nothing on stderr."""
    segment = run_dir(base, "failed") / segment_name(1)
    row = read_segment(segment)[-2]
    with segment.open("ab") as file:  # more than a pipe holds
        file.write(encode(row) * 20_000)
    command = f"{sys.executable} -m fasttrack tail -n 20000 failed | head -1"

    result = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        timeout=60,
        env=script_environment(),
    )

    assert "loss=1" in result.stdout
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""


# --- finding runs -------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["finished", "fin", "wandb/fasttrack/finished", "latest", "copy"])
def test_run_is_found_by_id_prefix_path_copy_or_as_the_latest(base: Path, text: str) -> None:
    """However one names it."""
    shutil.copytree(run_dir(base, "finished"), base / "copy")
    change_header(run_dir(base, "finished") / segment_name(2), time=time.time())

    assert find_run(text).run_id == "finished"
    assert find_run(str(base / "copy")).header["name"] == "two attempts"


def test_beginning_of_several_ids_names_them(base: Path) -> None:
    """One cannot guess which is meant."""
    with pytest.raises(RunError, match=r"2 runs begin with 'f': failed, finished; give more"):
        find_run("f")


def test_path_that_is_no_run_is_told_apart_from_an_id(base: Path) -> None:
    """A directory above the runs is the likely mistake."""
    with pytest.raises(RunError, match=r"wandb/fasttrack is not a run's directory"):
        find_run("wandb/fasttrack")


def test_directory_without_runs_is_said(tmp_path: Path) -> None:
    """Empty, or not even there."""
    (tmp_path / "wandb" / "fasttrack" / "empty").mkdir(parents=True)

    result = call("runs")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"fasttrack: no runs under {tmp_path}; pass --dir or set WANDB_DIR\n"
    assert call_json("runs") == []
    assert "no runs in" in call("show", "latest").stderr


def test_dir_option_is_the_parent_of_wandb(recorded: Path) -> None:
    """It beats WANDB_DIR."""
    assert {run["run_id"] for run in call_json("runs", "--dir", recorded)} == {
        "crashed",
        "failed",
        "finished",
        "preempted",
    }


# --- runs ---------------------------------------------------------------------------------------


def test_runs_lists_every_run_with_its_fate(base: Path) -> None:
    """What one wants to know the morning after."""
    listed = {run["run_id"]: run for run in call_json("runs")}

    assert {name: run["state"] for name, run in listed.items()} == {
        "finished": "finished",
        "failed": "failed",
        "preempted": "preempted",
        "crashed": "crashed",
    }
    assert listed["failed"]["exit_code"] == 3
    finished = listed["finished"]
    assert set(finished) == {
        *("run_id", "name", "project", "entity", "state", "exit_code", "rows", "attempts"),
        *("started", "delivered", "proofs", "url", "directory"),
    }
    assert (finished["rows"], finished["attempts"]) == (ROWS + 1, 2)
    assert finished["delivered"] == "offline dir"
    assert [proof.split(" read back")[0] for proof in finished["proofs"]] == ["50 rows", "1 rows"]
    assert finished["name"] == "two attempts"
    assert finished["directory"] == str(run_dir(base, "finished"))


def test_runs_table_fits_a_terminal(base: Path) -> None:
    """80 columns, with everything that matters."""
    result = call("runs")

    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    for text in ("vla-lego / two attempts", "1 rows read back from", "offline dir", "preempted"):
        assert text in result.stdout
    assert "\x1b" not in result.stdout


def test_running_run_is_told_by_its_process(tmp_path: Path) -> None:
    """And not taken for running when its process id has gone to a younger process."""
    tracker = make_tracker(options=SOON)
    run = find_run("latest")
    running = find_state(run).word
    change_header(run.segments[0], time=time.time() - 1e6)

    assert running == "running"
    assert find_state(find_run("latest")).word == "crashed"
    tracker.finish()


@pytest.mark.parametrize(("silent_s", "word"), [(0, "running?"), (301, "unknown")])
def test_run_of_another_host_is_judged_by_its_last_line(
    base: Path, silent_s: float, word: str
) -> None:
    """Its process cannot be asked for; the time of a copied file would tell nothing."""
    (segment,) = find_run("crashed").segments
    change_header(segment, host=f"not-{socket.gethostname()}")
    row = {**journal_rows(base, "crashed")[0], "time": time.time() - silent_s}
    with segment.open("ab") as file:
        file.write(encode(row) + b'{"kind":"row","torn')

    assert find_state(find_run("crashed")).word == word


def test_delivery_is_partly_when_an_attempt_or_new_rows_are_not_proven(base: Path) -> None:
    """A proof holds for the rows that were there when it was made."""
    run = find_run("finished")
    cursor_path = run.directory / "cursor.json"
    cursor = load_cursor(cursor_path)
    cursor.segments[segment_name(1)].online_proof = "the server's last step is 49"
    cursor.save(cursor_path)
    mixed = find_delivery(run)
    with run.segments[1].open("ab") as file:
        file.write(encode({**journal_rows(base, "finished")[-1], "seq": 1}))
    grown = find_delivery(run)

    assert (mixed.word, grown.word) == ("offline dir", "partly")
    assert mixed.proofs[0] == "the server's last step is 49"
    assert (grown.segments[1].rows, grown.segments[1].offline) == (2, None)


def test_rows_are_counted_without_parsing_but_exactly(tmp_path: Path) -> None:
    """A torn last line does not count, nor does text that looks like a row."""
    row = encode({"kind": "row", "seq": 0, "step": 0, "time": 0.0, "values": {}})
    trick = encode({"kind": "console", "text": '\n{"kind":"row"'})
    path = tmp_path / "segment"
    path.write_bytes(trick + row * 100_000 + trick + row + row[:-1])

    assert count_rows(path) == 100_001


# --- show ---------------------------------------------------------------------------------------


def test_show_tells_all_that_is_known_as_json(base: Path) -> None:
    """Facts, config of all attempts, proofs and what became of each metric."""
    shown = call_json("show", "finished")

    assert shown["config"] == {"lr": 0.1, "batch": {"size": 4}}
    assert shown["header"]["tags"] == [f"{name}:{value}" for name, value in TAGS.items()]
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


def test_show_draws_each_metric_within_80_columns(base: Path) -> None:
    """A course in letters, "!" where values are not finite."""
    result = call("show", "finished")
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}

    assert max(map(len, result.stdout.splitlines())) <= 80
    assert lines["loss"].split()[1:5] == ["50", "0.02", "0.02", "1"]
    assert lines["loss"].split()[5].startswith("█")
    assert "!" in lines["train/lr"]
    assert lines["eval/loss"].split()[2:] == ["inf", "-", "-", "!"]
    assert "batch.size" in lines
    assert lines["state"].split(maxsplit=1)[1].strip() == "finished (exit code 0)"


def test_show_tells_metadata_config_and_artifacts_that_were_logged(tmp_path: Path) -> None:
    """As `get_metadata`, `log_config` and `log_checkpoint` have recorded them."""
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"w" * 1000)
    tracker = make_tracker(options=SOON)
    tracker.log_config({"optimizer": {"name": "adamw"}})
    tracker.log_checkpoint(weights, aliases=["best"], force=True)
    tracker.finish()
    shown = call_json("show", "latest")
    text = call("show", "latest").stdout

    assert shown["metadata"] is not None
    assert shown["config"] == {"lr": 0.1, "optimizer": {"name": "adamw"}}
    assert {(a["type"], a["delivery"]) for a in shown["artifacts"]} == {
        ("config", None),
        ("model", None),
    }
    assert next(a for a in shown["artifacts"] if a["type"] == "model")["size_bytes"] == 1000
    for words in ("optimizer.name", "adamw", "best", "not delivered", "metadata", "1000 bytes"):
        assert words in text


def test_damaged_lines_are_left_out_and_said_once(base: Path) -> None:
    """A torn last line is normal, and not said."""
    segment = run_dir(base, "failed") / segment_name(1)
    lines = segment.read_bytes().splitlines(keepends=True)
    row = next(line for line in lines if line.startswith(b'{"kind":"row"'))
    no_step = encode({"kind": "row", "seq": 9, "time": 0.0, "values": {"loss": 1}})
    damaged = [b"\x00\xff garbage\n", no_step, b"[1]\n", b"{}\n"]
    segment.write_bytes(b"".join([lines[0], *damaged, row, row[:-5]]))

    for command in ("show", "tail", "export --format=csv"):
        result = call(*command.split(), "failed")

        assert result.exit_code == 0
        assert result.stderr == (f"fasttrack: 4 damaged lines of {segment.parent} were left out\n")
    assert call_json("show", "failed")["metrics"]["loss"]["count"] == 1
    assert [run.run_id for run in list_runs()] == [run["run_id"] for run in call_json("runs")]


def test_run_whose_header_is_damaged_is_still_listed(base: Path) -> None:
    """Its directory names it."""
    segment = run_dir(base, "crashed") / segment_name(1)
    segment.write_bytes(b"\x00\n" + segment.read_bytes().split(b"\n", 1)[1])

    (crashed,) = (run for run in call_json("runs") if run["run_id"] == "crashed")

    assert (crashed["rows"], crashed["project"]) == (1, None)
    assert crashed["state"] in ("running?", "unknown")
    assert call("show", "crashed").exit_code == 0


def test_copied_directory_is_shown_as_it_stands(base: Path) -> None:
    """Segments are all it takes."""
    copy = base / "x" / "ab12"
    copy.mkdir(parents=True)
    for path in run_dir(base, "finished").glob("segment-*"):
        shutil.copy(path, copy)

    shown = call_json("show", copy)

    assert (shown["run_id"], shown["rows"], shown["delivered"]) == ("finished", ROWS + 1, "no")


# --- sparklines ---------------------------------------------------------------------------------


def summary_of(values: list[float]) -> Summary:
    """Return the summary of `values`."""
    summary = Summary()
    for value in values:
        summary.add(value)
    return summary


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], "▁▂▃▄▅▆▇█"),
        ([5.0, 5.0], "▁▁"),
        ([math.nan, 1.0, 2.0], "!▁█"),
        ([math.inf], "!"),
        ([-1.7e308, 0.0, 1.7e308], "▁▅█"),
        ([1.7e308] * 1024 + [0.0] * 1024, "████▁▁▁▁"),
        ([0.0] * 1024 + [math.nan] + [1.0] * 1023, "▁▁▁▁!███"),
        ([], ""),
    ],
)
def test_sparkline_shows_the_course(values: list[float], line: str) -> None:
    """Whatever the numbers, and however many."""
    assert summary_of(values).sparkline(8) == line


def test_sparkline_has_letters_for_terminals_without_unicode() -> None:
    """Where blocks cannot be printed."""
    assert summary_of([0.0, 1.0]).sparkline(8, ascii_only=True) == "_#"
