"""A run as the page is handed it, while it goes on."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from support.journals import Line, append, finish, row, rows_of, windows, write_attempt

from fasttrack.errors import RunUnreadableError
from fasttrack.journal.alerts import Alert, save_alerts
from fasttrack.journal.entries import Config, Console, Metadata
from fasttrack.journal.lines import BLOCK_BYTES, line_blocks
from fasttrack.journal.rows import Row
from fasttrack.journal.run_directory import alerts_path
from fasttrack.journal.trouble import RanksStanding
from fasttrack.runs import find_run, speed
from fasttrack.views import curves
from fasttrack.views.report import read_report
from fasttrack.views.speed import tell_speed
from fasttrack.views.web import page_run
from fasttrack.views.web.console import last_lines
from fasttrack.views.web.page_run import PageRun

if TYPE_CHECKING:
    from pathlib import Path


def shown(name: str) -> PageRun:
    """Return a run of which all metrics are shown."""
    return PageRun(find_run(name), "key", lambda metric: True)


def told(run: PageRun) -> dict[str, Any]:
    """Return what is said of it in words, and how many rows each metric has."""
    payload = run.pack()
    found: dict[str, Any] = orjson.loads(payload[4 : 4 + int.from_bytes(payload[:4], "little")])
    found["metrics"] = {one["name"]: one["rows"] for one in found["metrics"]}
    return found


@pytest.mark.parametrize("by_columns", [False, True])
def test_what_is_written_meanwhile_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_columns: bool
) -> None:
    """Once, whether it is read from the end or all anew; whatever kind of line it is."""
    monkeypatch.setattr(curves, "_WORTH_IT_BYTES", 0 if by_columns else 2**60)
    monkeypatch.setattr(page_run, "_MOST_TAIL_ROWS", 40)
    metadata = Metadata({"git": {"commit": "abc"}})
    segment = write_attempt(
        tmp_path, "ab12", Console("stdout", "one\n"), *rows_of({"a": [1.0] * 50}), metadata
    )
    append(segment, Console("stdout", "two\n"), torn=b'{"kind":"row","se')
    run = shown("ab12")
    first = told(run)

    assert (first["rows"], first["metrics"], first["state"]) == (50, {"a": 50}, "crashed")
    assert first["console"] == "one\ntwo\n"
    assert first["config"] == [["lr", "0.1"]]
    assert first["metadata"] == [["git.commit", "abc"]]

    segment.write_bytes(segment.read_bytes().rpartition(b"\n")[0] + b"\n")
    for count in (10, 39, 60):
        before = told(run)["rows"]
        more: list[Line] = [Row(before + i, before + i, 1.0, {"a": 2.0}) for i in range(count)]
        append(segment, *more, Config({"late": True}), Console("stderr", f"{count}\n"))
        assert told(run)["rows"] == before + count
        assert told(run)["metrics"] == {"a": before + count}
    append(segment, Row(159, 159, 1.0, {"b": 1.0}), finish())
    write_attempt(tmp_path, "ab12", *rows_of({"a": [3.0]}, first_step=120))
    last = told(run)

    assert last["metrics"] == {"a": 160, "b": 1}
    assert (last["rows"], last["attempts"]) == (161, 2)
    assert last["console"] == "one\ntwo\n10\n39\n60\n"
    assert ["late", "true"] in last["config"]


def test_a_run_without_rows_is_a_run(tmp_path: Path) -> None:
    """It has a configuration, and may have printed something."""
    write_attempt(tmp_path, "ab12", Console("stdout", "hello\n"), config={"model": {"layers": 2}})
    run = told(shown("ab12"))

    assert (run["metrics"], run["rows"], run["console"]) == ({}, 0, "hello\n")
    assert run["config"] == [["model.layers", "2"]]


def test_alerts_are_told(tmp_path: Path) -> None:
    """As they are noted beside the journal; one that cannot be read is none."""
    directory = write_attempt(tmp_path, "ab12").parent
    alert = Alert(
        time_s=5.0,
        level="ERROR",
        title="loss is NaN",
        text="so",
        kind="non_finite",
        key="a",
        step=3,
    )
    save_alerts(alerts_path(directory), [alert])

    (found,) = told(shown("ab12"))["alerts"]
    assert found == {
        "time_s": 5.0,
        "level": "ERROR",
        "title": "loss is NaN",
        "text": "so",
        "step": 3,
    }
    alerts_path(directory).write_bytes(b"{")
    assert told(shown("ab12"))["alerts"] == []


@pytest.mark.parametrize("small_bytes", [0, 2**20])
def test_goodput_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_bytes: int
) -> None:
    """Of a long journal as it was when all of it was read last."""
    monkeypatch.setattr(page_run, "_SMALL_BYTES", small_bytes)
    rows = [row(step, step, 1001.0 + step, loss__total=1.0) for step in range(10)]
    write_attempt(tmp_path, "ab12", *rows, time_s=1000.0)
    run = shown("ab12")
    assert dict(told(run)["goodput"])["share"] == "100.0% of 10.0 s"
    again = [row(step, step + 8, 1021.0 + step, loss__total=1.0) for step in range(4)]
    write_attempt(tmp_path, "ab12", *again, time_s=1020.0)

    lost = "2 steps, 2.0 s" if small_bytes else "none"
    assert dict(told(run)["goodput"])["lost"] == lost


@pytest.mark.parametrize("block_bytes", [1, 700, BLOCK_BYTES])
def test_speed_and_ranks_are_told_as_show_tells_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    """However the journal grew meanwhile; and whatever of it says nothing of them."""
    cut = partial(line_blocks, block_bytes=block_bytes)
    monkeypatch.setattr(speed, "line_blocks", cut)
    slow = RanksStanding(stragglers={"rank 2 (node7, GPU 2)": "it waits for its data"})
    usual, held = [5.0] * 4, [5.0, 5.0, 80.0, 5.0]
    waits = [10.0, 1e-5, 250, 0, float("nan"), -float("inf"), 70.0]
    waited = [
        *rows_of({'quoted "': [1.0], "perf/phase_pct/data": [20.0]}),
        *rows_of({"perf/phase_pct/others": waits, "perf/phase_pct/data": waits}),
    ]
    others, later = (rows_of({"loss/total": [1.0] * 20}, first_step=step) for step in (20, 60))
    segment = write_attempt(tmp_path, "ab12", world_size=4, pid=os.getpid())
    run, shown_so_far = shown("ab12"), []
    for lines in (
        others,
        [*windows(range(10), usual, [0.0] * 4), *others, slow],
        [*windows(range(40, 60), held, [0.0, 0.0, 67.0, 0.0]), Console("stdout", "no\n")],
        [*later, RanksStanding(missing=("rank 1",), missing_ranks=1), *waited],
        [slow, finish()],
    ):
        append(segment, *lines)
        shown_so_far.append(told(run)["speed"])
        report = read_report(find_run("ab12"))
        status = report.overview.status
        assert shown_so_far[-1] == [
            list(line) for line in tell_speed(report.ranks, report.verdict, status).items()
        ]
    again = write_attempt(tmp_path, "ab12", *windows(range(5), usual, [30.0] * 4), world_size=2)
    append(again, torn=b'{"kind":"ranks","missing":["rank')

    assert [len(each) for each in shown_so_far] == [0, 2, 2, 2, 2]
    assert dict(shown_so_far[2])["verdict"].startswith("waiting for others: 50.0%")
    ranks, verdict = dict(told(run)["speed"]).values()
    assert (ranks, verdict) == tuple(dict(told(shown("ab12"))["speed"]).values())
    assert ranks.startswith(
        "2 of 2 heard; rank 2 (node7, GPU 2) held the others up from step 39 to 79: "
    )
    assert ranks.count("held the others up") == 2


def test_a_run_that_is_gone_is_named(tmp_path: Path) -> None:
    """Also where it was there before."""
    segment = write_attempt(tmp_path, "ab12", *rows_of({"a": [1.0]}))
    run = shown("ab12")
    run.pack()
    segment.unlink()

    with pytest.raises(RunUnreadableError, match="ab12 cannot be read"):
        run.pack()


def test_the_console_is_what_a_terminal_would_have_left() -> None:
    """No colors, no progress bar's earlier states, nothing endless."""
    text = "\x1b[32mgreen\x1b[0m\n 10%\r 50%\r100%\r\nlast\x07"

    assert last_lines(text) == "green\n100%\nlast"
    assert last_lines("\n".join(map(str, range(10_000)))).startswith("9599\n")
    assert len(last_lines("x" * 10_000)) == 1_000
