"""The command line as a whole: help, wrong usage, and what goes wrong in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from support.journals import append, finish, line_of, row, write_attempt
from support.runs import script_environment
from support.unprivileged import make_read_only, run_unprivileged

from fasttrack.cli.app import COMMANDS, cli
from fasttrack.runs import list_runs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

HEAVY = {"torch", "numpy", "wandb", "matplotlib", "pyarrow", "fasttrack.tracker"}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Where commands look for runs by themselves: two runs."""
    write_attempt(tmp_path, "finished", row(0, 0, loss=1.0), finish())
    write_attempt(tmp_path, "failed", row(0, 0, loss=1.0), finish(3))
    return tmp_path


def call(*arguments: object) -> Result:
    """Call the command line in this process."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.mark.parametrize("command", ["--help", "runs", "show latest", "tail latest"])
def test_help_and_commands_load_nothing_that_is_slow(base: Path, command: str) -> None:
    """`fasttrack runs` is asked for often; no command's module is needed to list them all."""
    code = (
        "import sys\nfrom fasttrack.cli import main\nsys.argv = ['fasttrack', *sys.argv[1:]]\n"
        "try: main()\nfinally: print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *command.split()],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(result.stderr.split())
    commands = {f"fasttrack.cli.{name}" for name in COMMANDS} & loaded

    assert HEAVY & loaded == set()
    assert commands == (set() if command == "--help" else {f"fasttrack.cli.{command.split()[0]}"})


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
        (["plot"], "Missing argument 'RUN...'"),
        (["tail", "x", "-n", "many"], "'many' is not a valid integer"),
        (["export", "x", "--format", "xml"], "'xml' is not one of"),
        (["export", "x", "--format", "parquet"], "parquet needs a file: -o FILE"),
        (["sync"], "name the runs, or pass --all"),
        (["sync", "x", "--all"], "name the runs, or pass --all"),
        (["runs", "--dir", "nowhere"], "Directory 'nowhere' does not exist"),
        (["runs", "--descending"], "--descending needs --metric"),
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


def test_hint_at_the_help_can_be_typed_as_it_stands(base: Path) -> None:
    """Also by whoever called the program by its path, or by python."""
    command = [sys.executable, "-m", "fasttrack", "tail", "--nosuch"]
    environment = script_environment()
    said = subprocess.run(command, capture_output=True, text=True, env=environment).stderr
    hint = said.strip().partition("; see ")[2]
    shown = subprocess.run(hint, shell=True, capture_output=True, text=True, env=environment)

    assert hint.endswith("fasttrack tail --help")
    assert shown.returncode == 0
    assert shown.stdout.startswith("Usage: fasttrack tail ")


@pytest.mark.parametrize(
    "command",
    [
        "show",
        "tail",
        "sync",
        "plot",
        "export --format=csv",
        "export latest --format=csv",
        "compare",
    ],
)
def test_unknown_run_is_one_line_and_code_2(base: Path, command: str) -> None:
    """It says where was looked and how to see what is there."""
    result = call(*command.split(), "nosuch")

    assert result.exit_code == 2
    assert result.stderr.startswith(f"fasttrack: no run 'nosuch' in {base}/wandb/fasttrack; '")
    assert result.stderr.endswith("fasttrack runs' lists what is there\n")
    assert result.stderr.count("\n") == 1


def test_reader_that_leaves_early_is_no_error(base: Path) -> None:
    """`fasttrack tail ... | head -1` prints a line and nothing on stderr."""
    segment = base / "wandb" / "fasttrack" / "failed" / "segment-0001.jsonl"
    append(segment, *[row(number, 1, loss=1.0) for number in range(20_000)])  # a pipe holds less
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


def test_damaged_lines_are_left_out_and_said_once(base: Path) -> None:
    """A torn last line is normal, and not said."""
    segment = base / "wandb" / "fasttrack" / "failed" / "segment-0001.jsonl"
    good = row(0, 0, loss=1.0)
    header = segment.read_bytes().splitlines(keepends=True)[0]
    no_step = b'{"kind":"row","seq":9,"time":0.0,"values":{"loss":1}}\n'
    damaged = [b"\x00\xff garbage\n", no_step, b"[1]\n", b"{}\n"]
    segment.write_bytes(b"".join([header, *damaged, line_of(good), line_of(good)[:-5]]))

    for command in ("show", "tail", "export --format=csv"):
        result = call(*command.split(), "failed")

        assert result.exit_code == 0
        assert result.stderr.splitlines() == [
            f"fasttrack: 4 damaged lines of {segment.parent} were left out:",
            "fasttrack:   segment-0001.jsonl:2 (not JSON)",
            "fasttrack:   segment-0001.jsonl:3 ('step' is missing)",
            "fasttrack:   segment-0001.jsonl:4 (not an object)",
            "fasttrack:   segment-0001.jsonl:5 ('kind' is missing)",
        ]
    shown = json.loads(call("show", "failed", "--json").stdout)
    listed = json.loads(call("runs", "--json").stdout)
    assert shown["metrics"]["loss"]["count"] == 1
    assert [run.run_id for run in list_runs()] == [run["run_id"] for run in listed]


# --- where nothing may be written, or read --------------------------------------------------------


@pytest.fixture
def read_only(base: Path) -> Iterator[Path]:
    """The same, with nothing in it that may be written, not even by its owner."""
    yield from make_read_only(base)


@pytest.mark.parametrize("command", ["runs", "show latest", "tail latest -m loss"])
def test_looking_at_runs_writes_nothing(read_only: Path, command: str) -> None:
    """So that it can be done on an archive, or on a colleague's runs."""
    result = run_unprivileged("-m", "fasttrack", *command.split())

    assert (result.returncode, result.stderr) == (0, "")
    assert "loss" in result.stdout or "finished" in result.stdout


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("plot latest", "cannot write the picture failed.png: "),
        ("export latest --format csv -o a.csv", "'a.csv'"),
        ("export latest --format parquet -o a.pq", "'a.pq'"),
        ("sync latest", "delivery.log'; its rows are safe in "),
        ("demo --epochs 1", "set WANDB_DIR to a directory that can be written"),
    ],
)
def test_directory_that_cannot_be_written_is_one_line_and_code_1(
    read_only: Path, command: str, named: str
) -> None:
    """It says what cannot be written; no traceback, and nothing of matplotlib's own troubles."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn")
    result = run_unprivileged("-m", "fasttrack", *command.split(), HOME=str(read_only))

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("fasttrack: ")
    assert "Permission denied" in result.stderr
    assert named in result.stderr
    assert result.stderr.count("\n") == 1


def test_sync_of_all_names_each_run_that_cannot_be_written(read_only: Path) -> None:
    """One does not keep the others from being tried."""
    result = run_unprivileged("-m", "fasttrack", "sync", "--all", "--json")
    told = json.loads(result.stdout)

    assert (result.returncode, result.stderr) == (1, "")
    assert {one["run_id"] for one in told} == {"finished", "failed"}
    assert all("Permission denied" in one["reason"] for one in told)


@pytest.mark.parametrize("command", ["runs", "show latest", "tail failed", "sync --all"])
@pytest.mark.parametrize("closed", ["", "failed/segment-0001.jsonl"])
def test_directory_or_segment_that_cannot_be_read_is_one_line_and_code_1(
    base: Path, command: str, closed: str
) -> None:
    """It is named."""
    path = base / "wandb" / "fasttrack" / closed
    mode = path.stat().st_mode
    os.chmod(path, 0)
    try:
        result = run_unprivileged("-m", "fasttrack", *command.split())
    finally:
        os.chmod(path, mode)

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"fasttrack: [Errno 13] Permission denied: '{path}")
    assert result.stderr.count("\n") == 1


def test_file_where_a_directory_should_be_is_one_line(tmp_path: Path) -> None:
    """A slip in WANDB_DIR."""
    (tmp_path / "wandb").touch()

    assert call("show", "latest").stderr.count("\n") == 1
    assert call("runs").exit_code == 0
    assert call("runs").stderr.startswith("fasttrack: no runs under ")
