"""A run's goodput from journals made by hand: what each figure is, to the last step."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from support.journals import append, row, write_attempt

from fasttrack import open_run
from fasttrack.cli.app import cli
from fasttrack.goodput import Goodput, read_goodput
from fasttrack.journal.entries import Finish, Pausing, Unlogged
from fasttrack.journal.run_directory import run_directory, segments

if TYPE_CHECKING:
    from pathlib import Path

    from fasttrack.journal.rows import Row


def steps(
    first: int, last: int, begin_s: float, *, each_s: float = 1.0, every: int = 1
) -> list[Row]:
    """Return rows of training steps, the first of which ends at `begin_s`."""
    return [
        row(place, step, begin_s + (step - first) * each_s, loss__total=0.5)
        for place, step in enumerate(range(first, last + 1, every))
    ]


def ended(time_s: float, last_step: int | None = None) -> Finish:
    """Return the last line of an attempt that ended in order."""
    return Finish(exit_code=0, time_s=time_s, deadline_s=time_s, last_step=last_step)


def goodput_of(base: Path, run_id: str = "run") -> Goodput:
    """Return a run's goodput, after checking that its parts are all of its time."""
    goodput = read_goodput(segments(run_directory(base, run_id)))
    parts_s = [goodput.kept_s, goodput.lost_s, goodput.pause_s]
    parts_s += [goodput.starting_s, goodput.down_s, goodput.ending_s]
    assert sum(parts_s) == pytest.approx(goodput.wall_s)
    return goodput


@pytest.fixture
def thrice(tmp_path: Path) -> Path:
    """A run that was killed twice: back by 5 steps, then by 15, over both earlier attempts."""
    write_attempt(tmp_path, "run", *steps(0, 19, 1011.0), time_s=1000.0)
    write_attempt(tmp_path, "run", *steps(15, 29, 1063.0, each_s=2.0), time_s=1060.0)
    last = steps(15, 34, 1112.0)
    write_attempt(tmp_path, "run", *last, ended(1135.0, 34), time_s=1101.0)
    return tmp_path


def test_steps_that_were_done_again_are_lost_and_all_the_rest_of_the_time_has_a_name(
    thrice: Path,
) -> None:
    """The second attempt's all 15, and 5 of the first: each counts the last time it was done."""
    goodput = goodput_of(thrice)
    first, second, third = goodput.attempts

    assert (goodput.kept_steps, goodput.lost_steps, goodput.restarts) == (35, 20, 2)
    assert [(one.kept_steps, one.lost_steps) for one in goodput.attempts] == [
        (15, 5),
        (0, 15),
        (20, 0),
    ]
    assert [(one.first_step, one.last_step) for one in goodput.attempts] == [
        (0, 19),
        (15, 29),
        (15, 34),
    ]
    assert (first.kept_s, first.lost_s, first.starting_s, first.ending_s) == (15, 5, 10, 0)
    assert (second.kept_s, second.lost_s, second.starting_s) == (0, 30, 1)
    assert (third.kept_s, third.ending_s, third.first_step_s) == (20, 4, 11)
    assert [one.down_s for one in goodput.attempts] == [0, 30, 10]
    assert [one.restart_s for one in goodput.attempts] == [0, 31, 20]
    assert goodput.wall_s == 135
    assert goodput.share == pytest.approx(35 / 135)


def test_it_is_told_by_show_as_json_and_to_python(thrice: Path) -> None:
    """The same figures everywhere."""
    shown = CliRunner().invoke(cli, ["show", "run", "--dir", str(thrice)])
    told = CliRunner().invoke(cli, ["show", "run", "--dir", str(thrice), "--json"])
    goodput = json.loads(told.stdout)["goodput"]

    assert open_run("run", thrice).goodput() == goodput_of(thrice)
    assert goodput["share"] == pytest.approx(35 / 135)
    assert (goodput["lost_steps"], goodput["restart_s"], goodput["wall_s"]) == (20, 51, 135)
    assert [one["attempt"] for one in goodput["attempts"]] == [1, 2, 3]
    lines = {line.split()[0]: line for line in shown.stdout.splitlines() if line.strip()}
    assert lines["share"].split(maxsplit=1)[1].strip() == "25.9% of 2 min 15 s"
    assert lines["lost"].split(maxsplit=1)[1].strip() == "20 steps, 35.0 s"
    assert lines["restarts"].split(maxsplit=1)[1].strip() == "2 gaps, 51.0 s"
    assert "attempt 2" in shown.stdout


def test_of_steps_between_two_rows_the_part_in_front_of_the_next_beginning_is_kept(
    tmp_path: Path,
) -> None:
    """Every tenth step is a row; the next attempt begins at 13, as it says, and logs 20 first."""
    write_attempt(tmp_path, "run", *steps(0, 40, 1001.0, every=10), time_s=1000.0)
    before = Unlogged(steps=7, first_s=1201.0, last_s=1207.0, trained_s=6.0)
    after = Unlogged(steps=4, first_s=1229.0, last_s=1232.0, trained_s=4.0, pause_s=5.0)
    rows = [row(0, 20, 1208.0, loss__total=0.5), row(1, 30, 1228.0, loss__total=0.5)]
    rows[1] = row(1, 30, 1228.0, loss__total=0.5, perf__pause_s=10.0)
    write_attempt(tmp_path, "run", before, *rows, after, ended(1240.0, 34), time_s=1200.0)
    goodput = goodput_of(tmp_path)
    first, second = goodput.attempts

    assert (first.kept_steps, first.lost_steps) == (13, 28)
    assert (first.kept_s, first.lost_s) == (13, 28)
    assert (second.first_step, second.last_step, second.kept_steps) == (13, 34, 22)
    assert (second.kept_s, second.pause_s, second.pauses) == (22, 15, 2)
    assert (second.starting_s, second.ending_s) == (0, 3)


def test_an_attempt_that_ended_before_its_first_row_has_its_steps(tmp_path: Path) -> None:
    """It logs every hundredth; its last line has the number of its last step."""
    told = Unlogged(steps=10, first_s=1011.0, last_s=1025.0, trained_s=9.0, pause_s=5.0)
    write_attempt(tmp_path, "run", told, ended(1026.0, 59), time_s=1000.0)
    goodput = goodput_of(tmp_path)
    (only,) = goodput.attempts

    assert (only.first_step, only.last_step, only.kept_steps) == (50, 59, 10)
    assert (only.kept_s, only.pause_s, only.starting_s, only.ending_s) == (10, 5, 10, 1)


def test_steps_of_a_killed_attempt_that_must_have_been_are_kept_each_as_long_as_usual(
    tmp_path: Path,
) -> None:
    """Its last row is of step 20, and the next attempt goes on from a checkpoint of 26."""
    write_attempt(tmp_path, "run", *steps(0, 20, 1001.0, every=10), time_s=1000.0)
    write_attempt(tmp_path, "run", *steps(27, 30, 1103.0), ended(1106.0, 30), time_s=1100.0)
    goodput = goodput_of(tmp_path)
    first, second = goodput.attempts

    assert (first.kept_steps, first.unseen_steps, first.last_step) == (27, 6, 26)
    assert (first.kept_s, first.ended_s, second.down_s) == (27, 1027, 73)
    assert goodput.kept_steps == 31


def test_steps_that_were_trained_elsewhere_are_nobodys_here(tmp_path: Path) -> None:
    """Thousands of steps further on: other machines' directories hold them."""
    write_attempt(tmp_path, "run", *steps(0, 20, 1001.0, every=10), time_s=1000.0)
    write_attempt(tmp_path, "run", *steps(5000, 5003, 9001.0), time_s=9000.0)

    assert goodput_of(tmp_path).kept_steps == 21 + 4


def test_a_pause_in_which_an_attempt_was_killed_is_a_pause(tmp_path: Path) -> None:
    """An evaluation that takes a while is noted when it begins; of the first nothing is left."""
    notes = [Pausing(True, 1012.0), Pausing(False, 1020.0), Pausing(True, 1031.0)]
    write_attempt(tmp_path, "run", *steps(0, 9, 1001.0), *notes, time_s=1000.0)
    write_attempt(tmp_path, "run", *steps(10, 11, 1100.0), time_s=1090.0)
    first, second = goodput_of(tmp_path).attempts

    assert (first.pause_s, first.pauses, first.ending_s) == (9 + 1, 2, 11)
    assert second.down_s == 1090 - 1031


def test_a_loop_that_goes_back_loses_what_it_does_again_and_micro_batches_are_one_step(
    tmp_path: Path,
) -> None:
    """A checkpoint loaded after a spike, in the same attempt; a step that is logged twice."""
    rows = [*steps(0, 9, 1001.0), *steps(6, 8, 1012.0), row(13, 8, 1015.0, loss__total=0.5)]
    write_attempt(tmp_path, "run", *rows, time_s=1000.0)
    goodput = goodput_of(tmp_path)

    assert (goodput.kept_steps, goodput.lost_steps) == (9, 4)
    assert (goodput.kept_s, goodput.lost_s) == (6 + 2 + 1 + 1 + 1, 4)


def test_where_no_row_is_a_training_steps_all_of_them_count(tmp_path: Path) -> None:
    """A loop that calls `log_metrics`; what it logs for a step long gone begins nothing anew."""
    rows = [row(step, step, 1001.0 + step, a=1.0) for step in range(10)]
    late = row(10, 4, 1011.0, late=1.0)
    write_attempt(tmp_path, "run", *rows, late, time_s=1000.0)
    goodput = goodput_of(tmp_path)

    assert (goodput.all_rows, goodput.kept_steps, goodput.lost_steps) == (True, 10, 0)
    assert goodput.kept_s == 10


def test_rows_that_no_call_has_logged_are_no_steps(tmp_path: Path) -> None:
    """What nodes tell goes on while training does not; also where all rows count."""
    trained = [row(seq, seq, 100.0 + seq, eval__loss=1.0) for seq in range(5)]
    idle = []
    for seq in range(5, 50, 2):
        idle.append(row(seq, 4, 100.0 + seq, host__n1__age_s=0.5, host__n1__cpu_pct=1.0))
        idle.append(row(seq + 1, 4, 101.0 + seq, nodes__missing=0, nodes__sampled=1))
    found = []
    for run_id, more in (("without", []), ("with", idle)):
        write_attempt(tmp_path, run_id, *trained, *more, ended(160.0), time_s=99.0)
        found.append(goodput_of(tmp_path, run_id))

    assert found[0] == found[1]
    assert found[0].all_rows


def test_a_run_without_a_step_has_no_share(tmp_path: Path) -> None:
    """And nothing is shown of it. A segment without a header is passed over."""
    segment = write_attempt(tmp_path, "run", time_s=1000.0)
    (segment.parent / "segment-0002.jsonl").touch()
    goodput = goodput_of(tmp_path)

    assert (goodput.share, goodput.steps, goodput.restarts) == (None, 0, 0)
    assert "goodput" not in CliRunner().invoke(cli, ["show", "run", "--dir", str(tmp_path)]).stdout


def test_lines_of_another_spelling_count_and_damaged_ones_do_not(tmp_path: Path) -> None:
    """What is a row is decided as everywhere else."""
    segment = write_attempt(tmp_path, "run", *steps(0, 4, 1001.0), time_s=1000.0)
    spelled = b'{"kind":"row","seq":5,"time":1006.0,"step":5,"values":{"loss/total":1,"a,b":2}}\n'
    torn = b'{"kind":"row","seq":6,"step":6,"time":1007.0,"values":{"loss/total":\n'
    absurd = b'{"kind":"row","seq":6,"step":6,"time":1e99,"values":{"loss/total":1}}\n'
    large = (
        b'{"kind":"row","seq":6,"step":99999999999999999999,"time":1,"values":{"loss/total":1}}\n'
    )
    append(segment, torn=spelled + torn + absurd + large + b"[]\n\n")
    append(segment, ended(1008.0, 5), torn=b'{"kind":"row","seq":7,"step":7,"ti')
    goodput = goodput_of(tmp_path)

    assert (goodput.kept_steps, goodput.kept_s, goodput.ending_s) == (6, 6, 2)


def test_a_header_that_is_lost_costs_the_start_only(tmp_path: Path) -> None:
    """The first row tells when the attempt was there."""
    write_attempt(tmp_path, "run", *steps(0, 4, 1001.0), time_s=0.0)
    goodput = goodput_of(tmp_path)

    assert (goodput.kept_steps, goodput.wall_s, goodput.kept_s) == (5, 4, 4)


def test_attempts_that_overlap_leave_no_time_below_zero(tmp_path: Path) -> None:
    """Two may live at once, by mistake, and clocks of two nodes differ."""
    write_attempt(tmp_path, "run", *steps(0, 9, 1001.0), time_s=1000.0)
    write_attempt(tmp_path, "run", *steps(5, 9, 1006.0), time_s=1005.0)
    goodput = read_goodput(segments(run_directory(tmp_path, "run")))

    assert (goodput.kept_steps, goodput.lost_steps, goodput.down_s) == (10, 5, 0)
    assert goodput.share == 1.0
