"""What wandb-core wrote against what it was sent: the first line, and every line of a file."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from support.journals import write_attempt
from support.runs import offline_dirs, run_script, wandb_rows

from fasttrack.delivery.backends.base import Place
from fasttrack.delivery.backends.wandb.history import FileHistory
from fasttrack.delivery.backends.wandb.line_by_line import count_equal
from fasttrack.delivery.backends.wandb.lines import Column, Line, Lines, items
from fasttrack.delivery.backends.wandb.notes import Notes
from fasttrack.delivery.backends.wandb.standing import Standing
from fasttrack.delivery.backends.wandb.witness import Witness
from fasttrack.errors import BackendLostError
from fasttrack.journal.cursor import Ledger
from fasttrack.journal.rows import Row, encode_row
from fasttrack.journal.shapes import RowShapes

if TYPE_CHECKING:
    from pathlib import Path

    from fasttrack.journal.rows import Number

ALTERED = """
import sys
from pathlib import Path
from fasttrack.delivery.backends.wandb import backend, lines, outbox
from fasttrack.delivery.backends.wandb.witness import Witness
from fasttrack.delivery.events import Done, Trouble
from fasttrack.delivery.run_delivery import RunDelivery

how = sys.argv[1]
if how == "no name":
    def lacking(interface, **told):
        return outbox.Outbox(object(), **told)
    backend.Outbox = lacking
elif how == "another record":  # a line is something else to this wandb-core, which passes it over
    lines._HISTORY = lines._SUMMARY
elif how == "another spelling":
    lines._STEP_ITEM = lines.Column("_stap")
elif how == "another call":  # what posts is there, and is called otherwise
    async def refuse(self, frames):
        raise TypeError("write() takes another argument")
    outbox.Outbox._send = refuse
events = []
run = RunDelivery(Path(sys.argv[2]), trainer_alive=lambda: False, report=events.append)
run.follow()
done = [event for event in events if isinstance(event, Done)]
print(len([event for event in events if isinstance(event, Trouble)]), done[0].delivered)
"""


def journaled(base: Path, rows: list[Row]) -> Standing:
    """Return the standing of an offline run with these rows."""
    segment = write_attempt(base, "r", *rows)
    place = Place(
        run_dir=segment.parent,
        ledger=Ledger(),
        save=lambda: None,
        in_trainer=False,
        leave_out=lambda what: None,
    )
    standing = Standing(place, Notes(), history=None, starting_step=0, wandb_dir=base)
    standing.settle([segment], [segment])
    return standing


def write_file(directory: Path, lines: list[Line], *, number: int = 1) -> FileHistory:
    """Write lines as wandb-core does, and the run's end."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    payloads: list[bytes] = []
    for line in lines:
        record = Record(num=number + len(payloads))
        record._info.stream_id = "r"
        record.history.MergeFromString(line.all_items(1.25))
        record.history.step.num = line.step
        payloads.append(record.SerializeToString())
    payloads.append(Record(num=9, exit={"exit_code": 0}).SerializeToString())
    path = directory / "run-r.wandb"
    path.write_bytes(
        b":W&B\0\0\0" + b"".join(struct.pack("<IHB", 0, len(p), 1) + p for p in payloads)
    )
    return FileHistory([path])


def lines_of(rows: list[Row]) -> list[Line]:
    """Return the lines that are made of rows, each at its own step."""
    lines = Lines()
    found = [line for row in rows if (line := lines.add(row.step, row, None)) is not None]
    return found + ([lines.open] if lines.open is not None else [])


def make_rows(**changes: dict[str, Number]) -> list[Row]:
    """Return rows of two kinds; `changes` are values of rows by their number, as "n3"."""
    rows = []
    for seq in range(120):
        values: dict[str, Number] = {"loss": seq / 7, "n": seq}
        if seq % 10 == 9:
            values["eval"] = float(seq)
        rows.append(Row(seq, seq, 1e9 + seq, {**values, **changes.get(f"n{seq}", {})}))
    return rows


def test_a_file_with_every_line_is_equal(tmp_path: Path) -> None:
    """Also where the lines are of several kinds."""
    history = write_file(tmp_path, lines_of(make_rows()))

    assert count_equal(journaled(tmp_path, make_rows()), history) == 120
    assert history.ended
    assert history.seems_ended()


@pytest.mark.parametrize("number", [0, 1, 60, 118, 119])
def test_one_other_value_is_not_equal(tmp_path: Path, number: int) -> None:
    """Whichever line it is in."""
    history = write_file(tmp_path, lines_of(make_rows(**{f"n{number}": {"loss": 0.125}})))

    assert count_equal(journaled(tmp_path, make_rows()), history) is None


@pytest.mark.parametrize("number", [0, 60, 119])
def test_a_line_more_or_less_is_not_equal(tmp_path: Path, number: int) -> None:
    """Where lines are not those of the journal one by one, all are compared otherwise."""
    lines, standing = lines_of(make_rows()), journaled(tmp_path, make_rows())

    less = write_file(tmp_path, lines[:number] + lines[number + 1 :])
    assert count_equal(standing, less) is None
    more = write_file(tmp_path, [*lines[:number], lines[number], *lines[number:]])
    assert count_equal(standing, more) is None


def test_another_value_behind_the_journals_own_is_not_equal(tmp_path: Path) -> None:
    """Nothing but what belongs there may follow in a line."""
    lines = lines_of(make_rows())
    lines[60].late = True  # that does
    lines[70].items += lines[71].items

    assert count_equal(journaled(tmp_path, make_rows()), write_file(tmp_path, lines)) is None


def test_a_line_that_the_client_wrote_its_own_way_is_equal(tmp_path: Path) -> None:
    """Other order, other spelling: its values count."""
    lines = lines_of(make_rows())
    row = lines[-1].rows[0][0]
    lines[-1] = Line(119, row, dict(reversed(row.values.items())), late=False)

    assert count_equal(journaled(tmp_path, make_rows()), write_file(tmp_path, lines)) == 120


class Scene:
    """A witness, its clock, and a file."""

    def __init__(self, tmp_path: Path) -> None:
        self.now_s = 0.0
        self.path = tmp_path
        self.witness = Witness(tmp_path, clock=lambda: self.now_s)
        self.line = Line(3, Row(0, 3, 1e9, {"loss": 0.5}), None, late=False)

    def sees(self, after_s: float) -> bool:
        """Look again after some seconds."""
        self.now_s += after_s
        return self.witness.sees(self.line)


def test_a_first_line_that_is_not_written_is_told_after_a_while(tmp_path: Path) -> None:
    """A slow disk has a minute; then rows go another way."""
    scene = Scene(tmp_path)

    assert not scene.sees(0.0)
    assert not scene.sees(59.0)
    with pytest.raises(BackendLostError, match="does not write"):
        scene.sees(2.0)


def test_a_first_line_that_is_written_otherwise_is_told_at_once(tmp_path: Path) -> None:
    """One other value, or none of a name, is enough."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    scene = Scene(tmp_path)
    row = Row(0, 3, 1e9, {"loss": 0.25})
    write_file(tmp_path, [Line(3, row, None, late=False)])
    summary = Record(num=8)
    summary.summary.update.add(key="_step", value_json="3")
    payload = summary.SerializeToString()
    with (tmp_path / "run-r.wandb").open("ab") as file:
        file.write(struct.pack("<IHB", 0, len(payload), 1) + payload)

    assert not scene.sees(0.0)
    with pytest.raises(BackendLostError, match="'loss' otherwise"):
        scene.sees(2.0)


@pytest.mark.parametrize(
    "how", ["no name", "another record", "another spelling", "another call", "as it is"]
)
def test_a_client_with_other_insides_gets_its_rows_by_run_log(how: str, tmp_path: Path) -> None:
    """A name is missing, or what it is sent means something else to wandb-core: all arrive."""
    rows = [Row(seq, seq, 1e9, {"loss": seq / 7}) for seq in range(300)]
    segment = write_attempt(tmp_path, "other001", *rows)
    result = run_script(ALTERED, how, str(segment), warnings="default", fresh=True)

    troubles, delivered = result.stdout.split()[-2:]
    assert (int(troubles), delivered) == (int(how.startswith("another")), "True")
    (directory,) = offline_dirs(tmp_path)
    found = [(row["_step"], row["loss"]) for row in wandb_rows(directory)]
    assert found == [(seq, seq / 7) for seq in range(300)]


@pytest.mark.parametrize("late", [False, True])
def test_what_the_user_logs_under_our_name_stays(late: bool) -> None:
    """`time/logged_at` stands once, with the user's number, also in rows that come late."""
    line = Line(3, Row(0, 3, 1e9, {"time/logged_at": 7.0}), None, late=late)
    line.join(Row(1, 3, 2e9, {"loss": 0.5}), None, late=late)

    assert line.all_items(1.25).count(b"time/logged_at") == 1
    assert line.values() == {"time/logged_at": 7.0, "loss": 0.5, "step": 3}


def test_a_long_name_takes_no_more_memory_than_it_is_long() -> None:
    """How its items begin is not prepared; they are what they are of any name."""
    values: dict[str, Number] = {"loss": 0.5, "n" * 5000: 0.25}
    shapes = RowShapes()
    for _ in range(60):
        row = shapes.decode(encode_row(0, 3, 1.5, values)[:-1])

    assert isinstance(row, Row)
    assert row.spelled is not None
    assert items(row, None) == items(Row(0, 3, 1.5, values), None)
    assert Column("n" * 5000).starts == []


def test_a_time_of_many_digits_is_a_time() -> None:
    """Nobody but an editor writes one; the row is delivered all the same."""
    text = encode_row(0, 3, 1.5, {"loss": 0.5})[:-1]
    shapes = RowShapes()
    for digits in (1, 40):
        line = text.replace(b'"time":1.5', b'"time":1.' + b"5" * digits)
        for _ in range(60):
            row = shapes.decode(line)
        assert isinstance(row, Row)
        assert Line(3, row, None, late=True).all_items(1.0)
