"""`fasttrack report` and `fasttrack ui`: where the page goes, and what goes wrong in one line."""

from __future__ import annotations

import base64
import gzip
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.request import urlopen

import orjson
import pytest
from click.testing import CliRunner
from support.journals import finish, rows_of, write_attempt
from support.late import need

from fasttrack.cli.app import cli

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

need("bokeh", "pages need Bokeh")


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path) -> None:
    for run_id in ("ab12", "cd34"):
        metrics = {"loss/total": [2.0, 1.0], "eval/accuracy": [0.5]}
        write_attempt(tmp_path, run_id, *rows_of(metrics), finish())


def call(*arguments: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli, arguments)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["ab12"], "ab12.html"),
        (["ab12", "ab"], "ab12.html"),
        (["ab12", "cd34"], "runs.html"),
        (["ab12", "cd34", "-m", "loss/*", "-o", "x.html"], "x.html"),
    ],
)
def test_page_is_named_after_the_run_or_runs(
    tmp_path: Path, arguments: list[str], name: str
) -> None:
    """In the working directory, and its path on stdout; the same runs make the same page."""
    result = call("report", *arguments)

    assert result.exit_code == 0, result.output
    assert result.stdout == f"{name}\n"
    page = (tmp_path / name).read_bytes()
    assert page.startswith(b"<!doctype html>")
    assert call("report", *arguments).exit_code == 0
    assert (tmp_path / name).read_bytes() == page


def test_nothing_that_a_run_says_is_part_of_the_page_as_it_stands(tmp_path: Path) -> None:
    """Its texts are packed; but for the title, in which they are escaped."""
    write_attempt(
        tmp_path, "evil", name="</title><script>alert(1)</script>", config={"<b>": "</b>"}
    )
    assert call("report", "evil").exit_code == 0
    page = (tmp_path / "evil.html").read_text()

    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<b>" not in page
    (data,) = re.findall(r'id="data">([^<]*)<', page)
    assert b"</b>" in gzip.decompress(base64.b64decode(data))


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["report"], 2, "Missing argument 'RUN...'; see "),
        (["report", "nothing"], 2, "no run 'nothing' in "),
        (["report", "broken"], 2, "broken cannot be read: "),
        (
            ["report", "ab12", "-m", "x"],
            1,
            "the run has no metric 'x'; it has: eval/accuracy, loss",
        ),
        (["report", "ab12", "-o", "no/x.html"], 1, "cannot write the page no/x.html: "),
        (["ui", "nowhere"], 2, "Directory 'nowhere' does not exist; see "),
    ],
)
def test_what_goes_wrong_is_one_line(
    tmp_path: Path, arguments: list[str], exit_code: int, said: str
) -> None:
    """And nothing is written."""
    (tmp_path / "wandb" / "fasttrack" / "broken" / "segment-0001.jsonl").mkdir(parents=True)
    result = call(*arguments)

    assert result.exit_code == exit_code
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.glob("*.html")) == []


def test_without_bokeh_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is read."""
    from fasttrack.views.web.library import library_script

    library_script.cache_clear()
    monkeypatch.setitem(sys.modules, "bokeh", None)

    for arguments in (["report", "ab12"], ["ui"]):
        result = call(*arguments)
        assert result.exit_code == 1
        assert "needs bokeh: pip install 'fasttrack[report]'" in result.stderr
    library_script.cache_clear()


def test_ui_prints_its_url_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    """In order, with nothing said of it."""
    command = [sys.executable, "-u", "-m", "fasttrack", "ui", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        listed = orjson.loads(urlopen(url.replace("/?", "/api/runs?"), timeout=30).read())
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=60)

    assert url.startswith("http://127.0.0.1:")
    assert [run["key"] for run in listed["runs"]] == ["cd34", "ab12"]
    assert (process.returncode, rest, said) == (0, "", "")
