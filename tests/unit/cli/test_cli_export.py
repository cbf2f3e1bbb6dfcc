"""`fasttrack export`: what other programs get to read."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from pyarrow import parquet
from support.journals import finish, write_attempt
from support.runs import run_dir, script_environment

from fasttrack.cli.app import cli
from fasttrack.journal.rows import Row
from fasttrack.journal.run_directory import segments

if TYPE_CHECKING:
    from click.testing import Result

RUN = "exported"
FIXED = ["attempt", "seq", "step", "time"]
COLUMNS = [*FIXED, "loss", "count", "mixed", "metric/seq", "ok"]


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path) -> None:
    """A run of two attempts, with every kind of value, and metrics that not every row has."""
    write_attempt(
        tmp_path,
        RUN,
        Row(0, 0, 1.5, {"loss": 0.1, "count": 1, "mixed": 1}),
        Row(1, 1, 2.5, {"loss": math.nan, "count": 2, "mixed": 2.5, "seq": 7}),
        Row(2, 2, 3.25, {"loss": -math.inf, "mixed": 2**60 + 1}),
        finish(),
    )
    write_attempt(tmp_path, RUN, Row(0, 1, 4.5, {"ok": True}), finish())
    write_attempt(tmp_path, "other", Row(0, 3, 5.5, {"loss": 0.25, "run": 1}), finish())


def export(form: str, *arguments: object) -> Result:
    """Call the command in this process."""
    words = ["export", RUN, "--format", form, *map(str, arguments)]
    return CliRunner().invoke(cli, words)


def test_csv_has_a_line_per_row_and_a_column_per_metric() -> None:
    """Numbers are written in full, missing ones not at all."""
    result = export("csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))

    assert result.exit_code == 0
    assert list(rows[0]) == COLUMNS
    assert [row["time"] for row in rows] == ["1.5", "2.5", "3.25", "4.5"]
    assert [[row[name] for name in ("attempt", "seq", "step")] for row in rows] == [
        ["1", "0", "0"],
        ["1", "1", "1"],
        ["1", "2", "2"],
        ["2", "0", "1"],
    ]
    assert [row["loss"] for row in rows] == ["0.1", "nan", "-inf", ""]
    assert [row["mixed"] for row in rows] == ["1", "2.5", str(2**60 + 1), ""]
    assert [row["metric/seq"] for row in rows] == ["", "7", "", ""]
    assert [row["ok"] for row in rows] == ["", "", "", "1"]


def test_json_is_one_array_that_any_parser_takes() -> None:
    """NaN, which JSON does not know, is told apart from a missing value."""
    rows = json.loads(export("json").stdout, parse_constant=pytest.fail)

    assert all(list(row) == COLUMNS for row in rows)
    assert [row["loss"] for row in rows] == [0.1, "NaN", "-Infinity", None]
    assert [row["count"] for row in rows] == [1, 2, None, None]
    assert rows[3]["ok"] == 1


def test_parquet_keeps_numbers_as_numbers(tmp_path: Path) -> None:
    """Integers where all are, doubles else; NaN is no null."""
    path = tmp_path / "run.parquet"
    result = export("parquet", "-o", path)
    table = parquet.read_table(path)
    kinds = {column.name: str(column.type) for column in table.schema}
    loss = table.column("loss").to_pylist()

    assert (result.exit_code, result.output) == (0, "")
    assert list(kinds) == COLUMNS
    assert {name for name, kind in kinds.items() if kind == "double"} == {"time", "loss", "mixed"}
    assert set(kinds.values()) == {"double", "int64"}
    assert loss[0] == 0.1
    assert math.isnan(loss[1])
    assert loss[2:] == [-math.inf, None]
    assert table.column("mixed").to_pylist() == [1.0, 2.5, float(2**60 + 1), None]


def test_output_goes_to_a_file_on_request(tmp_path: Path) -> None:
    """With nothing on stdout."""
    result = export("csv", "-o", tmp_path / "run.csv")

    assert (result.exit_code, result.output) == (0, "")
    assert (
        (tmp_path / "run.csv").read_text()
        == export("csv").stdout
        == export("csv", "-o", "-").stdout
    )


def test_file_that_cannot_be_made_is_one_line_and_code_1() -> None:
    """No traceback for a typing error in a path."""
    result = export("csv", "-o", "nowhere/run.csv")

    assert result.exit_code == 1
    assert result.stderr == "fasttrack: [Errno 2] No such file or directory: 'nowhere/run.csv'\n"


def test_parquet_without_pyarrow_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves no empty file behind."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    result = export("parquet", "-o", tmp_path / "run.parquet")

    assert result.exit_code == 1
    assert result.stderr == ("fasttrack: parquet needs pyarrow: pip install 'fasttrack[export]'\n")
    assert not (tmp_path / "run.parquet").exists()


def test_run_without_rows_exports_an_empty_table(tmp_path: Path) -> None:
    """It has just begun; that is no error."""
    for segment in segments(run_dir(tmp_path, RUN)):
        segment.write_bytes(segment.read_bytes().split(b"\n")[0] + b"\n")

    assert export("csv").stdout == ",".join(FIXED) + "\n"
    assert json.loads(export("json").stdout) == []
    assert export("parquet", "-o", "empty.parquet").exit_code == 0
    assert parquet.read_table("empty.parquet").num_rows == 0


def test_several_runs_are_one_table_with_their_ids_in_front() -> None:
    """In the order in which they are named, in every format; one run has no such column."""
    words = ["export", "other", RUN, RUN, "--format"]
    text = CliRunner().invoke(cli, [*words, "csv"]).stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    told = json.loads(CliRunner().invoke(cli, [*words, "json"]).stdout)
    result = CliRunner().invoke(cli, [*words, "parquet", "-o", "both.parquet"])
    table = parquet.read_table("both.parquet")

    assert list(rows[0]) == ["run", *FIXED, "loss", "metric/run", *COLUMNS[5:]]
    assert [row["run"] for row in rows] == ["other", *[RUN] * 4]
    assert [row["loss"] for row in rows] == ["0.25", "0.1", "nan", "-inf", ""]
    assert [row["run"] for row in told] == ["other", *[RUN] * 4]
    assert result.exit_code == 0
    assert table.column("run").to_pylist() == ["other", *[RUN] * 4]
    assert str(table.schema.field("run").type) == "string"
    assert table.column("metric/run").to_pylist() == [1, None, None, None, None]


def test_export_to_a_pipe_writes_the_same_bytes() -> None:
    """In a process of its own, as `fasttrack export ... > run.csv` does."""
    command = [sys.executable, "-m", "fasttrack", "export", RUN, "--format", "csv"]
    result = subprocess.run(
        command, capture_output=True, check=True, timeout=60, env=script_environment()
    )

    assert result.stdout.decode() == export("csv").stdout
    assert result.stderr == b""
