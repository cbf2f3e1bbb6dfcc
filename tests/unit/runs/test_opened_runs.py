"""`fasttrack.runs()` and `fasttrack.open_run()`: what a run's journal says of it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from support.journals import (
    append,
    change_header,
    finish,
    row,
    rows_of,
    write_attempt,
    write_proofs,
)
from support.runs import script_environment
from support.unprivileged import run_unprivileged

import fasttrack
from fasttrack import ConfigurationError, FasttrackError, open_run
from fasttrack.errors import RunNotFoundError, RunUnreadableError
from fasttrack.journal.entries import Config, Console, Metadata
from fasttrack.runs import find_status, list_runs
from fasttrack.views.report import read_overview

if TYPE_CHECKING:
    from pathlib import Path


def test_all_runs_are_listed_the_newest_first(tmp_path: Path) -> None:
    """With what `fasttrack runs` shows of them."""
    for number, run_id in enumerate(("old", "new", "newest")):
        segment = write_attempt(tmp_path, run_id, *rows_of({"loss": [1.0] * (number + 1)}))
        change_header(segment, time_s=1000.0 + number)
    append(segment, finish(3))
    write_proofs(segment.parent, proof="read back", url="https://example.com/r")
    found = fasttrack.runs(tmp_path)

    assert [run.id for run in found] == ["newest", "new", "old"]
    for run, local in zip(found, reversed(list_runs(tmp_path)), strict=True):
        overview = read_overview(local).as_json()
        assert (run.name, run.project) == (overview["name"], overview["project"])
        assert (run.state, run.exit_code) == (overview["state"], overview["exit_code"])
        assert (run.rows, run.attempts) == (overview["rows"], overview["attempts"])
        assert (run.delivered, run.url) == (overview["delivered"], overview["url"])
        assert (run.started_s, str(run.directory)) == (overview["started"], overview["directory"])
    assert (found[0].state, found[0].exit_code, found[0].rows) == ("failed", 3, 3)
    assert (found[0].delivered, found[0].url) == ("server", "https://example.com/r")
    assert [run.id for run in fasttrack.runs()] == ["newest", "new", "old"]


def test_the_name_is_the_library_too() -> None:
    """Whichever is imported first."""
    code = (
        "import fasttrack\n{first}\n"
        "import fasttrack.runs as library\n"
        "from fasttrack.runs import find_run\n"
        "assert fasttrack.runs is library and fasttrack.runs() == []\n"
    )
    for first in (
        "fasttrack.runs()",
        "from fasttrack.runs import find_run",
        "import fasttrack.runs.local",
    ):
        subprocess.run(
            [sys.executable, "-W", "error", "-c", code.format(first=first)],
            check=True,
            timeout=60,
            env=script_environment(),
        )

    assert isinstance(fasttrack.runs, ModuleType)


def test_configuration_and_metadata_are_those_of_all_attempts(tmp_path: Path) -> None:
    """What came later counts, wherever in the journal it stands."""
    text = Console("stdout", '\n{"kind":"config","values":{"no":1}}\n')
    write_attempt(tmp_path, "run", *rows_of({"loss": [1.0] * 5}), text, config={"lr": 1, "a": 1})
    write_attempt(
        tmp_path,
        "run",
        Metadata({"git": {"commit": "abc"}}),
        *rows_of({"loss": [1.0] * 5}),
        Config({"lr": 3, "b": {"c": math.inf}}),
        text,
        Config({"late": "yes"}),
        config={"lr": 2},
    )
    run = open_run("run")

    assert run.config == {"lr": 3, "a": 1, "b": {"c": None}, "late": "yes"}
    assert run.metadata == {"git": {"commit": "abc"}}
    assert run.tags == ("model:eo1", "dataset:lego", "objective:ar+fm", "experiment_group:baseline")
    assert repr(run) == "<Run run (name of run)>"


def test_summary_is_each_metrics_last_value(tmp_path: Path) -> None:
    """In the order in which they came; as it was logged, of whichever attempt and kind of row."""
    first = rows_of({"loss": [float(i) for i in range(300)], "early": [1.5], "big": [2**63 + 1]})
    write_attempt(
        tmp_path, "run", *first, row(300, 1, **{'odd"1': 1.0}), row(301, 2, **{'odd"2': 2.0})
    )
    write_attempt(
        tmp_path,
        "run",
        *rows_of({"loss": [9.0, 8.0], "late": [0.5]}, first_step=300),
        row(2, 400, bad=math.nan, ok=True),
        row(3, 401, loss=7.0),
    )
    run = open_run("run")

    assert list(run.summary) == run.metrics
    assert run.metrics == ["loss", "early", "big", 'odd"1', 'odd"2', "late", "bad", "ok"]
    assert repr(run.summary) == repr(
        {
            "loss": 7.0,
            "early": 1.5,
            "big": 2**63 + 1,
            'odd"1': 1.0,
            'odd"2': 2.0,
            "late": 0.5,
            "bad": math.nan,
            "ok": True,
        }
    )
    assert run.last_values()["loss"] == (401, 7.0)


def test_summary_passes_over_a_damaged_last_row(tmp_path: Path) -> None:
    """And over half a line; the row before it counts."""
    segment = write_attempt(tmp_path, "run", *rows_of({"loss": [1.0, 2.0, 3.0]}))
    damaged = segment.read_bytes().replace(b'"loss":3.0', b'"loss":3.')
    segment.write_bytes(damaged + damaged.split(b"\n")[2][:-4])

    assert open_run("run").summary == {"loss": 2.0}


def test_a_live_run_is_read_anew_at_each_question(tmp_path: Path) -> None:
    """Its state, rows, summary and attempts."""
    segment = write_attempt(tmp_path, "run", row(0, 0, loss=1.0), pid=os.getpid())
    run = open_run("run")
    before = (run.state, run.is_live, run.rows, run.summary, run.attempts)
    append(segment, row(1, 1, loss=2.0), finish(0, preempting=True))
    between = (run.state, run.is_live, run.rows, run.summary, run.attempts)
    write_attempt(tmp_path, "run", row(0, 2, loss=3.0), finish())

    assert before == ("running", True, 1, {"loss": 1.0}, 1)
    assert between == ("preempted", False, 2, {"loss": 2.0}, 1)
    assert (run.state, run.rows, run.summary, run.attempts) == ("finished", 3, {"loss": 3.0}, 2)
    assert run.exit_code == find_status(list_runs()[0]).exit_code == 0


def test_a_run_is_opened_as_the_commands_name_it(tmp_path: Path) -> None:
    """By id, the beginning of one, path, or as the latest; a relative directory may be left."""
    segment = write_attempt(tmp_path, "ab12cd", row(0, 0, loss=1.0))

    for text in ("ab12cd", "ab", "latest", str(segment.parent), "wandb/fasttrack/ab12cd"):
        assert open_run(text).id == "ab12cd"
    assert open_run("ab", tmp_path).directory == segment.parent
    with pytest.raises(RunNotFoundError, match="no run 'x' in "):
        open_run("x")
    with pytest.raises(ConfigurationError, match="directory='nowhere': there is no such directory"):
        open_run("ab", "nowhere")
    with pytest.raises(ConfigurationError, match="there is no such directory"):
        fasttrack.runs("nowhere")


def test_a_run_whose_journal_is_gone_says_so(tmp_path: Path) -> None:
    """It was deleted after it had been opened."""
    segment = write_attempt(tmp_path, "run", row(0, 0, loss=1.0))
    run = open_run("run")
    segment.unlink()

    for ask in (lambda: run.state, lambda: run.summary, lambda: run.config, run.history):
        with pytest.raises(FasttrackError, match=r"run .*/run cannot be read: its journal is gone"):
            ask()


def test_a_run_that_may_not_be_read_is_one_line_and_code_2(tmp_path: Path) -> None:
    """On the command line; in Python an error that is an OSError, too."""
    write_attempt(tmp_path, "good", row(0, 0, loss=1.0))
    segment = write_attempt(tmp_path, "secret", row(0, 0, loss=1.0))
    segment.chmod(0)
    code = "import fasttrack\ntry: fasttrack.open_run('secret')\nexcept {} as e: print(e)"

    for kind in ("OSError", "fasttrack.FasttrackError"):
        said = run_unprivileged("-c", code.format(kind)).stdout
        assert said.startswith("run secret cannot be read: ")
        assert "Permission denied" in said
    for words in (["compare", "good", "secret"], ["plot", "secret"]):
        result = run_unprivileged("-m", "fasttrack", *words)
        assert result.returncode == 2, result
        assert "cannot be read" in result.stderr
        assert result.stderr.count("\n") == 1
    assert issubclass(RunUnreadableError, OSError)


def test_reading_loads_nothing_that_is_not_asked_for(tmp_path: Path) -> None:
    """No torch, no numpy, no pyarrow, until a form needs it."""
    write_attempt(tmp_path, "run", row(0, 0, loss=1.0), finish())
    code = (
        "import json, sys, fasttrack\n"
        "run = fasttrack.open_run('run')\n"
        "told = [run.state, run.config, run.summary, run.rows, fasttrack.runs()[0].name]\n"
        "run.history(last=5).rows()\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=script_environment(),
    )

    assert {"torch", "numpy", "pyarrow", "pandas", "polars", "wandb"} & set(
        json.loads(result.stdout)
    ) == set()
