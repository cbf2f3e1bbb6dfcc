"""A run's rows as tables: every value that the journal holds, and no other."""

from __future__ import annotations

import json
import math
import random
import sys
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from support.journals import append, finish, row, write_attempt
from support.version_1 import SCENARIOS, copy_run

from fasttrack import ConfigurationError, FasttrackError, open_run
from fasttrack.journal.entries import Config, Console
from fasttrack.journal.rows import Row
from fasttrack.runs.blocks import table_of
from fasttrack.runs.columns import read_blocks
from fasttrack.runs.local import LocalRun

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.journals import Line

FIXED = ["attempt", "seq", "step", "time"]
SPELLED = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
MANY = 200  # rows: enough for lines that are alike to be read as a table


def journal_rows(directory: Path) -> list[dict[str, Any]]:
    """Return what any reader of JSON finds in a run's whole lines, by a table's columns."""
    found = []
    for number, path in enumerate(sorted(directory.glob("segment-*.jsonl")), 1):
        for line in path.read_bytes().split(b"\n")[:-1]:
            try:
                told = json.loads(line, parse_constant=pytest.fail)
                if told["kind"] != "row":
                    continue
            except (ValueError, TypeError, KeyError):
                continue
            values = {name: SPELLED.get(v, v) for name, v in told["values"].items()}
            named = {f"metric/{name}" if name in FIXED else name: v for name, v in values.items()}
            found.append({"attempt": number, **{n: told[n] for n in FIXED[1:]}, **named})
    return found


def assert_equal(table: pa.Table, rows: list[dict[str, Any]]) -> None:
    """Compare a table with rows, value by value, types and the sign of zero included."""
    told = [{n: v for n, v in one.items() if v is not None} for one in table.to_pylist()]
    assert len(told) == len(rows)
    for found, expected in zip(told, rows, strict=True):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            whole = pa.types.is_integer(table.schema.field(name).type)
            wanted = int(value) if whole else float(value)
            assert repr(found[name]) == repr(wanted), name


def table_in_pieces(directory: Path) -> pa.Table:
    """Return all rows as read in many small blocks."""
    run = LocalRun(directory)
    return table_of(list(read_blocks(run, lambda name: True, block_bytes=2_000)))


def many(values: Callable[[int], dict[str, Any]], count: int = MANY) -> list[Line]:
    """Return rows whose values a function makes of their number."""
    return [Row(seq, 3 * seq, 1.7e9 + seq / 7, values(seq)) for seq in range(count)]


JOURNALS: dict[str, list[Line]] = {
    "floats and integers": many(lambda i: {"loss": 1 / (i + 1), "count": i, "lr": 1e-5 * i}),
    "first whole, then not": many(lambda i: {"x": 0 if i < 150 else i + 0.75, "y": 2**62 + i}),
    "beyond 2**53": many(lambda i: {"big": 2**53 + i, "negative": -(2**62) - i}),
    "beyond 2**63": many(lambda i: {"huge": 2**63 + i, "mixed": 2**63 + i if i > 99 else i}),
    "huge and fractions": many(lambda i: {"x": 2**63 + i if i > 99 else i, "y": i / 3}),
    "not finite": many(lambda i: {"a": [math.nan, math.inf, -math.inf, -0.0, 1e-320][i % 5]}),
    "names of such": many(lambda i: {"NaN": math.nan, "Infinity": i, "I": i / 7, "null": 1.5}),
    "booleans": many(lambda i: {"ok": i % 2 == 0, "loss": i / 3}),
    "late and early": many(lambda i: {"a": i / 3} if i < 70 else {"b": i / 7, "c": i}),
    "every tenth has more": many(
        lambda i: {"loss": i / 3, **({"gpu/power": i / 9, "gpu/0": i} if i % 10 == 0 else {})}
    ),
    "another order": many(lambda i: {"a": i / 3, "b": i} if i % 3 else {"b": i, "a": i / 7}),
    "as many, other names": many(lambda i: {f"step/p{'50' if i % 2 else '99'}": i / 3}),
    "names that look like ours": many(lambda i: {"step": i, "seq": i / 3, "time": 1, "attempt": 2}),
    "odd names": many(
        lambda i: {"a,b": i, "c:d": i / 3, 'e"f': 1.5, "{g}": 2, "h\\i": 3, "": 4, "損失 🙂": 5}
    ),
    "odd names that fit": many(lambda i: {"損失 🙂": i / 3, "a{": i, " b ": 2.5, "e-5": 1}),
    "whole and huge exponents": many(lambda i: {"x": 1e300 * (i + 1), "y": 1e16 + i, "z": 5e-324}),
    "no metrics": many(lambda i: {}),
    "few": many(lambda i: {"loss": i / 3}, 3),
    "nothing": [],
}


@pytest.mark.parametrize("name", JOURNALS)
def test_table_holds_what_the_journal_does_value_by_value(tmp_path: Path, name: str) -> None:
    """In whole and in small pieces; other lines stand between the rows."""
    lines = JOURNALS[name]
    between: list[Line] = [Console("stdout", '{"kind":"row","seq":1}\n'), Config({"a": 1})]
    segment = write_attempt(tmp_path, "alike", *lines, finish())
    write_attempt(tmp_path, "mixed", *lines[:90], *between, *lines[90:], between[0])

    for run_id in ("alike", "mixed"):
        expected = journal_rows(segment.parents[1] / run_id)
        assert len(expected) == len(lines)
        assert_equal(open_run(run_id).history().to_arrow(), expected)
        assert_equal(table_in_pieces(segment.parents[1] / run_id), expected)


def test_types_are_those_that_the_values_need(tmp_path: Path) -> None:
    """Integers where all are, of 64 bits with or without sign; doubles else."""
    for number, lines in enumerate(JOURNALS.values()):
        write_attempt(tmp_path, f"run{number}", *lines)
    names = list(JOURNALS)

    def types(name: str) -> list[str]:
        table = open_run(f"run{names.index(name)}").history().to_arrow()
        return [str(kind) for kind in table.schema.types[4:]]

    assert types("floats and integers") == ["double", "int64", "double"]
    assert types("first whole, then not") == ["double", "int64"]
    assert types("beyond 2**63") == ["uint64", "uint64"]
    assert types("huge and fractions") == ["uint64", "double"]
    assert types("booleans") == ["int64", "double"]
    assert types("late and early") == ["double", "double", "int64"]


def test_random_runs_of_several_attempts_are_read_exactly(tmp_path: Path) -> None:
    """Any mixture of shapes, values and other lines, killed anywhere."""
    chance = random.Random(0)
    numbers: list[Callable[[], float]] = [
        chance.random,
        lambda: chance.randint(-(2**63), 2**63 - 1),
        lambda: chance.choice([math.nan, math.inf, -math.inf, -0.0, True]),
        lambda: chance.uniform(-1, 1) * 10 ** chance.randint(-300, 300),
        lambda: chance.randint(0, 9),
    ]
    shapes = [[f"m/{chance.randint(0, 9)}" for _ in range(chance.randint(1, 6))] for _ in range(5)]
    for attempt in range(3):
        lines: list[Line] = []
        for seq in range(500):
            shape = chance.choice(shapes[: 1 + 2 * attempt])
            make = numbers[0] if chance.random() < 0.9 else chance.choice(numbers)
            lines.append(Row(seq, chance.randint(0, 99), 1.7e9 + seq, {n: make() for n in shape}))
            if chance.random() < 0.02:
                lines.append(Console("stdout", "text\n"))
        segment = write_attempt(tmp_path, "random", *lines)
        whole = segment.read_bytes()
        segment.write_bytes(whole[: len(whole) - chance.randint(1, 200)])

    expected = journal_rows(segment.parent)
    assert len(expected) > 1400
    table = open_run("random").history().to_arrow()
    assert_equal(table, expected)
    assert_equal(table_in_pieces(segment.parent), expected)
    told = [(one.attempt, one.seq, repr(one.values)) for one in open_run("random").history().rows()]
    rows = [(one.attempt, one.seq, repr(one.values)) for one in LocalRun(segment.parent).rows()]
    assert told == rows


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_runs_of_the_first_format_are_read_exactly(tmp_path: Path, scenario: str) -> None:
    """They were written by the code of that time."""
    run = copy_run(scenario, tmp_path)

    expected = journal_rows(run.directory)
    assert expected
    assert_equal(open_run(run.run_id).history().to_arrow(), expected)


@pytest.mark.parametrize("otherwise", ["spelled by another", "damaged"])
def test_what_stands_before_and_after_rows_that_are_alike_is_read_too(
    tmp_path: Path, otherwise: str
) -> None:
    """Of a piece that is read as a table, the ends are read line by line."""
    lines = many(lambda i: {"loss": 0.5 + i / 3, "lr": 1.5})
    segment = write_attempt(tmp_path, "ends", *lines, finish())
    header, *rows, finished, _ = segment.read_bytes().split(b"\n")
    if otherwise == "damaged":
        ends = [rows[0][:-1], b"[]", rows[-1][:-1]]
    else:
        ends = [b" " + row for row in (rows[0], rows[1], rows[-1])]
    first, second, last = ends
    segment.write_bytes(
        b"\n".join([header, first, second, *rows[2:-1], last, b"{}", finished, b""])
    )

    run = LocalRun(segment.parent)
    expected = [(one.seq, one.step, one.values) for one in run.rows()]
    assert run.bad_lines == (4 if otherwise == "damaged" else 1)
    assert len(expected) == MANY - (3 if otherwise == "damaged" else 0)
    told = open_run("ends").history().to_arrow().to_pylist()
    assert [(one["seq"], one["step"], values_of(one)) for one in told] == expected


def values_of(row: dict[str, object]) -> dict[str, object]:
    return {name: row[name] for name in ("loss", "lr")}


def test_damaged_lines_are_left_out_wherever_they_stand(tmp_path: Path) -> None:
    """And the others are read; a torn last line is none yet."""
    lines = many(lambda i: {"loss": 0.5 + i / 3, "lr": 1.5})
    segment = write_attempt(tmp_path, "damaged", *lines)
    whole = segment.read_bytes().split(b"\n")
    whole[20] = whole[20].replace(b'"loss":', b'"loss"')
    whole[40] = whole[40][:-1]
    whole[60] = b""
    whole[80] = whole[80].replace(b'"seq":', b'"seq":"') + b'"'
    whole[100] = whole[100].replace(b"}}", b"},")
    whole[110] = whole[110] + b"\r" + whole[110]
    whole[120] = whole[120].replace(b'"lr":1.5', b'"lr":NaN')
    whole[140] = whole[140].replace(b'"lr":1.5', b'"lr":"high"')
    whole[150] = whole[150].replace(b'"lr":1.5', b'"lr":null')
    whole[-1] = whole[-2][:-5]
    segment.write_bytes(b"\n".join(whole))

    expected = [one.values for one in LocalRun(segment.parent).rows()]
    for table in (open_run("damaged").history().to_arrow(), table_in_pieces(segment.parent)):
        told = [values_of(one) for one in table.to_pylist()]
        assert told == expected
        assert len(told) == MANY - 9


def test_metrics_choose_columns_and_the_rows_that_have_one(tmp_path: Path) -> None:
    """By name or pattern; a name that looks like a pattern is meant as it stands."""
    lines = many(lambda i: {"loss/a": i / 3, "[x]": i, **({"eval": i / 7} if i % 50 == 7 else {})})
    segment = write_attempt(tmp_path, "chosen", *lines, Row(MANY, 0, 1.0, {"other": 1.5}))
    run = open_run("chosen")
    expected = journal_rows(segment.parent)

    table = run.history("eval").to_arrow()
    assert_equal(
        table, [{n: one[n] for n in [*FIXED, "eval"]} for one in expected if "eval" in one]
    )
    assert run.history(["loss/*", "[x]"]).to_arrow().column_names == [*FIXED, "loss/a", "[x]"]
    assert run.history(["loss/*"]).to_arrow().num_rows == MANY
    both = run.history(["other", "eval"])
    assert [one.values for one in both.rows()] == [
        {n: v for n, v in one.items() if n in ("other", "eval")}
        for one in expected
        if {"other", "eval"} & one.keys()
    ]
    assert both.to_arrow().num_rows == len(both.rows()) == 5


def test_last_rows_are_those_at_the_end_of_all_attempts(tmp_path: Path) -> None:
    """In order; with metrics, the last that have one."""
    write_attempt(tmp_path, "long", *many(lambda i: {"loss": i / 3}))
    write_attempt(tmp_path, "long", row(0, 1, loss=9.5), row(1, 2, rare=2.5), row(2, 3, loss=7.5))
    run = open_run("long")
    expected = journal_rows(run.directory)

    for count in (0, 1, 3, 50, 203, 999):
        assert_equal(run.history(last=count).to_arrow(), expected[-count:] if count else [])
    assert_equal(run.history("rare", last=50).to_arrow(), expected[-2:-1])
    told = run.history("loss", last=2).to_arrow().to_pylist()
    assert [one["loss"] for one in told] == [9.5, 7.5]


def test_a_live_run_is_read_as_it_is_by_then(tmp_path: Path) -> None:
    """Half a line is none; the next call has it."""
    segment = write_attempt(tmp_path, "live", row(0, 0, loss=1.5))
    history = open_run("live").history()
    append(segment, row(1, 1, loss=2.5), torn=b'{"kind":"row","seq":2,')

    assert history.to_arrow().column("loss").to_pylist() == [1.5, 2.5]
    with segment.open("ab") as file:
        file.write(b'"step":2,"time":1.5,"values":{"loss":3.5}}\n')
    write_attempt(tmp_path, "live", row(0, 3, loss=4.5))
    assert history.to_arrow().column("loss").to_pylist() == [1.5, 2.5, 3.5, 4.5]
    assert [one.attempt for one in history.rows()] == [1, 1, 1, 2]


def test_pandas_polars_and_arrow_say_the_same(tmp_path: Path) -> None:
    """Integers with gaps stay exact; NaN and nothing are one thing to pandas only."""
    big = 2**53 + 1
    write_attempt(
        tmp_path, "forms", row(0, 0, a=1.5, n=big), row(1, 1, a=math.nan), row(2, 2, n=big + 2)
    )
    history = open_run("forms").history()
    frame, table = history.to_pandas(), history.to_arrow()
    exact = history.to_pandas(types_mapper=pd.ArrowDtype)

    assert table.column("n").to_pylist() == [big, None, big + 2]
    assert list(frame.columns) == table.column_names
    assert [str(kind) for kind in frame.dtypes] == ["int64"] * 3 + ["float64"] * 2 + ["Int64"]
    assert frame["n"].tolist() == [big, pd.NA, big + 2]
    assert frame["a"].isna().tolist() == [False, True, True]
    assert exact["a"].isna().tolist() == [False, False, True]
    polars = history.to_polars()
    assert polars.columns == table.column_names
    assert polars["n"].to_list() == [big, None, big + 2]
    assert polars["a"].is_nan().to_list() == [False, True, None]
    assert pl.DataFrame(history).equals(polars)
    assert pa.table(history).schema == table.schema


@pytest.mark.parametrize("package", ["pyarrow", "pandas", "polars"])
def test_missing_package_is_a_line_that_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    """The rows themselves need none of them."""
    write_attempt(tmp_path, "one", row(0, 0, loss=1.5))
    history = open_run("one").history()
    monkeypatch.setitem(sys.modules, package, None)
    form = {"pyarrow": "to_arrow"}.get(package, f"to_{package}")
    extra = {"pyarrow": "export"}.get(package, package)

    with pytest.raises(FasttrackError) as caught:
        getattr(history, form)()
    assert str(caught.value) == (
        f"a run's rows as a table needs {package}: pip install 'fasttrack[{extra}]'"
    )
    assert [one.values for one in history.rows()] == [{"loss": 1.5}]


@pytest.mark.parametrize("last", [None, 5])
def test_a_metric_that_is_nowhere_is_an_error_that_says_what_there_is(
    tmp_path: Path, last: int | None
) -> None:
    """An empty table would be taken for a run that has not logged it yet."""
    write_attempt(tmp_path, "one", row(0, 0, loss=1.5))
    history = open_run("one").history(["loss", "los"], last=last)

    for form in (history.to_arrow, history.rows):
        with pytest.raises(FasttrackError, match=r"the run has no metric 'los'; it has: loss"):
            form()


@pytest.mark.parametrize("last", [-1, 1.5, True, "5"])
def test_last_that_is_no_number_of_rows_is_refused(tmp_path: Path, last: Any) -> None:
    """At the call, not at the reading."""
    write_attempt(tmp_path, "one", row(0, 0, loss=1.5))

    with pytest.raises(ConfigurationError, match=r"last=.*: pass a number of rows"):
        open_run("one").history(last=last)
