"""Runs on disk: found however one names them, and read whole, damaged lines aside."""

from __future__ import annotations

import math
import os
import shutil
import time
from pathlib import Path

import pytest
from support.journals import (
    append,
    change_header,
    finish,
    line_of,
    make_header,
    row,
    rows_of,
    write_attempt,
)

from fasttrack.errors import RunNotFoundError
from fasttrack.journal.entries import Config, Console
from fasttrack.runs import LocalRun, RunRow, find_run, find_runs, list_runs


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A directory with three runs, the last of which was resumed once."""
    for run_id in ("failed", "crashed"):
        write_attempt(tmp_path, run_id, row(0, 0, loss=1.0))
    write_attempt(tmp_path, "finished", *rows_of({"loss": [3.0, 2.0]}), name="two attempts")
    write_attempt(tmp_path, "finished", row(0, 2, loss=1.0, acc=0.5), finish(), name=None)
    return tmp_path


@pytest.mark.parametrize("text", ["finished", "fin", "wandb/fasttrack/finished", "latest", "copy"])
def test_run_is_found_by_id_prefix_path_copy_or_as_the_latest(base: Path, text: str) -> None:
    """However one names it."""
    directory = base / "wandb" / "fasttrack" / "finished"
    change_header(directory / "segment-0002.jsonl", time_s=time.time() + 1)
    shutil.copytree(directory, base / "copy")

    assert find_run(text).run_id == "finished"
    assert find_run(str(base / "copy")).name == "two attempts"


def test_beginning_of_several_ids_names_them(base: Path) -> None:
    """One cannot guess which is meant."""
    with pytest.raises(
        RunNotFoundError, match=r"2 runs begin with 'f': failed, finished; give more of the id"
    ):
        find_run("f")


def test_path_that_is_no_run_is_told_apart_from_an_id(base: Path) -> None:
    """A directory above the runs is the likely mistake."""
    with pytest.raises(RunNotFoundError, match=r"wandb/fasttrack is not a run's directory"):
        find_run("wandb/fasttrack")


def test_directory_without_runs_is_said(tmp_path: Path) -> None:
    """Empty, or not even there."""
    with pytest.raises(RunNotFoundError, match=f"no runs in {tmp_path}/wandb/fasttrack"):
        find_run("latest")
    (tmp_path / "wandb" / "fasttrack" / "empty").mkdir(parents=True)

    assert list_runs() == []
    with pytest.raises(RunNotFoundError, match="no run 'empty' in "):
        find_run("empty")


def test_runs_that_are_named_twice_are_one(base: Path) -> None:
    """In the order of the names; a path and an id may mean the same."""
    found = find_runs(["finished", "failed", "fin", "wandb/fasttrack/failed"])

    assert [run.run_id for run in found] == ["finished", "failed"]


def test_a_group_is_all_of_its_runs_as_they_were_begun(base: Path) -> None:
    """Together with others, each once; where one run is asked for, it is none."""
    for run_id, time_s in (("second", 20.0), ("first", 10.0)):
        write_attempt(base, run_id, row(0, 0, loss=1.0), group="lr sweep", time_s=time_s)

    found = find_runs(["failed", "group:lr sweep", "first"])
    assert [run.run_id for run in found] == ["failed", "first", "second"]
    with pytest.raises(
        RunNotFoundError, match=r"no run of the group 'x' in .*; there are lr sweep"
    ):
        find_runs(["group:x"])
    with pytest.raises(RunNotFoundError, match="may be several runs, and one is asked for"):
        find_run("group:lr sweep")


def test_runs_are_listed_by_their_newest_attempts(base: Path) -> None:
    """The one that was resumed last stands at the end, where the prompt is."""
    runs = base / "wandb" / "fasttrack"
    change_header(runs / "failed" / "segment-0001.jsonl", time_s=1000.0)
    change_header(runs / "crashed" / "segment-0001.jsonl", time_s=2000.0)
    change_header(runs / "finished" / "segment-0001.jsonl", time_s=1.0)
    change_header(runs / "finished" / "segment-0002.jsonl", time_s=1500.0)

    assert [run.run_id for run in list_runs()] == ["failed", "finished", "crashed"]
    assert [run.run_id for run in list_runs(base)] == ["failed", "finished", "crashed"]
    assert (find_run("finished").started_s, find_run("finished").resumed_s) == (1.0, 1500.0)


def test_rows_are_typed_and_know_their_attempt(base: Path) -> None:
    """Across attempts, in the order in which they were written."""
    run = find_run("finished")
    found = list(run.rows())

    assert [(r.attempt, r.seq, r.step, r.values) for r in found] == [
        (1, 0, 0, {"loss": 3.0}),
        (1, 1, 1, {"loss": 2.0}),
        (2, 0, 2, {"loss": 1.0, "acc": 0.5}),
    ]
    assert run.metrics() == ["loss", "acc"]
    assert run.bad_lines == 0


def test_header_of_a_resumed_run_is_completed_from_the_first(base: Path) -> None:
    """A second attempt names only what it was given."""
    run = find_run("finished")

    assert run.header is not None
    assert (run.header.attempt, run.header.name) == (2, "two attempts")
    assert (run.name, run.project) == ("two attempts", "vla-lego")


def test_damaged_lines_are_left_out_and_counted(base: Path) -> None:
    """A torn last line is normal, and not counted; a kind that is not known is passed over."""
    segment = base / "wandb" / "fasttrack" / "failed" / "segment-0001.jsonl"
    damaged = [
        b"\x00\xff garbage\n",
        b'{"kind":"row","seq":9,"time":0.0,"values":{"loss":1}}\n',  # no step
        b"[1]\n",
        b"{}\n",
        b'{"kind":"of tomorrow"}\n',
    ]
    with segment.open("ab") as file:
        file.write(b"".join(damaged))
    append(segment, row(1, 1, loss=2.0), torn=line_of(row(2, 2, loss=3.0))[:-5])
    run = find_run("failed")

    assert [r.values["loss"] for r in run.rows()] == [1.0, 2.0]
    assert run.bad_lines == 4


def test_run_whose_header_is_damaged_is_named_by_its_directory(base: Path) -> None:
    """Its rows are read as ever; when it began, the file tells."""
    segment = base / "wandb" / "fasttrack" / "crashed" / "segment-0001.jsonl"
    segment.write_bytes(b"\x00\n" + segment.read_bytes().split(b"\n", 1)[1])
    os.utime(segment, (5.0, 5.0))
    run = find_run("crashed")

    assert (run.header, run.run_id, run.project, run.name) == (None, "crashed", None, None)
    assert run.started_s == run.resumed_s == 5.0
    assert [r.values for r in run.rows()] == [{"loss": 1.0}]
    assert next(run.run_id for run in list_runs()) == "crashed"


def test_last_row_with_a_metric_is_found_from_the_end(base: Path) -> None:
    """In whichever attempt it stands; a value that is NaN is one too."""
    segment = base / "wandb" / "fasttrack" / "finished" / "segment-0002.jsonl"
    append(segment, row(1, 3, **{'odd "name" é': math.nan}), Console("stdout", 'says "loss"'))
    append(segment, Config({"loss": 1}), torn=b'{"kind":"row","loss')
    run = find_run("finished")
    last, odd = run.last_row("loss"), run.last_row('odd "name" é')

    assert isinstance(last, RunRow)
    assert (last.attempt, last.step, last.values["loss"]) == (2, 2, 1.0)
    assert odd is not None
    assert math.isnan(odd.values['odd "name" é'])
    assert run.last_row("los") is None


def test_last_row_of_an_earlier_attempt_is_found_when_the_newest_has_none(tmp_path: Path) -> None:
    """A damaged line that looks like one is passed over."""
    write_attempt(tmp_path, "ab", row(0, 0, loss=1.0), row(1, 1, loss=2.0))
    second = write_attempt(tmp_path, "ab", row(0, 2, acc=1.0))
    with second.open("ab") as file:
        file.write(b'{"kind":"row","loss":"loss"}\n')
    last = find_run("ab").last_row("loss")

    assert last is not None
    assert (last.attempt, last.seq, last.values) == (1, 1, {"loss": 2.0})


def test_reading_a_run_while_it_grows_takes_what_is_there(tmp_path: Path) -> None:
    """A reader neither waits nor fails; the next reading takes what has come."""
    segment = write_attempt(tmp_path, "ab", row(0, 0, loss=1.0))
    run = LocalRun(segment.parent)
    before = [r.step for r in run.rows()]
    append(segment, row(1, 1, loss=2.0))
    write_attempt(tmp_path, "ab", row(0, 2, loss=3.0))

    assert before == [0]
    assert [r.step for r in run.rows()] == [0, 1, 2]


def test_headers_are_those_that_were_written(tmp_path: Path) -> None:
    """The builder of these tests writes what the package reads."""
    write_attempt(tmp_path, "ab", host="h", pid=7, time_s=3.0)

    assert find_run("ab").headers == [make_header("ab", host="h", pid=7, time_s=3.0)]
