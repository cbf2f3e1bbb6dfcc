"""`fasttrack plot`: where the picture goes, and what goes wrong in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from support.journals import finish, rows_of, write_attempt
from support.late import need
from support.runs import run_script

from fasttrack.cli.app import cli

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

need("matplotlib", "pictures need matplotlib")


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path) -> None:
    for run_id in ("ab12", "cd34"):
        metrics = {"loss/total": [2.0, 1.0], "eval/accuracy": [0.5]}
        write_attempt(tmp_path, run_id, *rows_of(metrics), finish())


def plot(*arguments: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(cli, ["plot", *arguments])


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["ab12"], "ab12.png"),
        (["ab12", "ab"], "ab12.png"),
        (["ab12", "cd34"], "runs.png"),
        (["ab12", "cd34", "-o", "x.png"], "x.png"),
    ],
)
def test_picture_is_named_after_the_run_or_runs(
    tmp_path: Path, arguments: list[str], name: str
) -> None:
    """In the working directory, and its path on stdout; a run that is named twice is one."""
    result = plot(*arguments)

    assert result.exit_code == 0, result.output
    assert result.stdout == f"{name}\n"
    assert (tmp_path / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["-m", "loss/*", "-m", "nothing"],
            "the run has no metric 'nothing'; it has: eval/accuracy, loss/total\n",
        ),
        (["-o", "absent/a.png"], "cannot write the picture absent/a.png: "),
        (["-o", "a.xyz"], "cannot write the picture a.xyz: Format 'xyz' is not supported"),
    ],
)
def test_what_cannot_be_drawn_is_one_line_on_stderr(arguments: list[str], said: str) -> None:
    """With exit code 1, and no traceback."""
    result = plot("ab12", *arguments)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"fasttrack: {said}")
    assert result.stderr.count("\n") == 1


def test_run_without_rows_says_so(tmp_path: Path) -> None:
    """A run that has only begun is no error of the journal's."""
    write_attempt(tmp_path, "empty")
    result = plot("empty")

    assert result.exit_code == 1
    assert result.stderr == "fasttrack: the run has no metrics yet\n"


def test_missing_matplotlib_is_one_line_that_names_the_extra(tmp_path: Path) -> None:
    """And drawing needs neither torch nor wandb."""
    source = """
        import sys
        from fasttrack.cli import main

        sys.modules["matplotlib"] = None
        sys.argv[1:] = ["plot", "ab12", "--dir", sys.argv[1]]
        try:
            main()
        finally:
            assert not {"torch", "wandb", "numpy"} & set(sys.modules)
    """

    result = run_script(source, str(tmp_path), check=False, fresh=True)

    assert result.returncode == 1
    assert "pip install 'fasttrack[examples]'" in result.stderr
    assert result.stderr.count("\n") == 1
