"""`fasttrack verify`: what a destination really holds, against the journal."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from support.journals import change_header, finish, rows_of, write_attempt
from support.runs import deliver, make_tracker, offline_dirs, run_dir
from support.wandb_server import Fault

from fasttrack.cli.app import cli
from fasttrack.delivery.run_lock import locked
from fasttrack.journal.run_directory import lock_path

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result
    from support.wandb_server import WandbServer

pytestmark = pytest.mark.server


def verify(run: Path | str, *options: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(cli, ["verify", str(run), *options])


def verify_json(run: Path | str, *options: str) -> dict[str, Any]:
    """Run the command; return what it says of the only place."""
    result = verify(run, "--json", *options)
    told = json.loads(result.stdout)
    assert told["exit_code"] == result.exit_code
    (place,) = told["places"]
    return {**told, **place}


@pytest.fixture
def delivered(server: WandbServer, tmp_path: Path) -> Path:
    """A run of two attempts that is on the server; return its directory."""
    rows = rows_of({"loss": [float(step) for step in range(50)], "lr": [0.1] * 50})
    write_attempt(tmp_path, "ab12", *rows, finish(), mode="online")
    more = rows_of({"loss": [float(step) for step in range(40, 60)]}, first_step=40)
    segment = write_attempt(tmp_path, "ab12", *more, finish(), mode="online", resumed=True)
    assert deliver(segment.parent)["delivered"]
    return segment.parent


def _lines(server: WandbServer) -> dict[int, str]:
    return server.runs["ab12"].streams["wandb-history.jsonl"]


def test_a_run_that_is_there_whole(delivered: Path) -> None:
    """Every value counts, of every attempt; what is told twice at a step is there twice."""
    told = verify_json(delivered)

    assert (told["exit_code"], told["whole"]) == (0, True)
    assert (told["rows"], told["values"], told["lines"]) == (70, 120, 70)
    assert told["metrics"]["loss"]["journal"] == told["metrics"]["loss"]["held"]
    assert told["metrics"]["loss"]["journal"]["count"] == 70
    assert verify(delivered).stdout == (
        "ab12: wandb, the server's tester/vla-lego/ab12: all 70 rows are there (120 values)\n"
    )


def test_rows_that_the_server_lost_are_listed_and_repaired_once(
    server: WandbServer, delivered: Path
) -> None:
    """Removed in the middle and at the end; what is sent again comes behind all others."""
    lines = _lines(server)
    kept = [line for offset, line in sorted(lines.items()) if offset not in (7, 8, 30, 69)]
    server.runs["ab12"].streams["wandb-history.jsonl"] = dict(enumerate(kept))

    told = verify_json(delivered)
    said = verify(delivered)

    assert (told["exit_code"], told["missing"], told["replaced"]) == (1, 4, 0)
    assert told["missing_steps"] == [[7, 8], [30, 30], [59, 59]]
    assert told["missing_rows"] == [[1, 7, 7], [1, 8, 8], [1, 30, 30], [2, 19, 59]]
    assert "4 of 70 rows are not there" in said.stdout
    assert "missing: steps 7 to 8, 30, 59" in said.stdout
    assert "loss: 70 values logged, 66 there" in said.stdout

    assert verify_json(delivered, "--repair")["whole"]
    assert len(_lines(server)) == 70
    assert verify_json(delivered, "--repair")["whole"]
    assert len(_lines(server)) == 70


def test_a_row_that_was_altered_is_missing_and_replaced(
    server: WandbServer, delivered: Path
) -> None:
    """One number differs; the repaired run has the right one, too."""
    lines = _lines(server)
    lines[12] = lines[12].replace('"loss":12', '"loss":13')

    told = verify_json(delivered)

    assert (told["exit_code"], told["missing"], told["replaced"], told["others"]) == (1, 1, 1, 1)
    assert told["missing_steps"] == [[12, 12]]

    repaired = verify_json(delivered, "--repair")
    assert (repaired["whole"], repaired["others"]) == (True, 1)


def test_what_another_machine_has_overwritten_since_its_proof_is_found_and_repaired(
    server: WandbServer, delivered: Path
) -> None:
    """Nobody could tell then. Both have used the same steps; nothing is sent at a taken one."""
    lines = _lines(server)
    for step in range(10):
        lines[60 + step] = json.dumps({"loss": -1.0, "step": 100 + step, "_step": step + 9})

    told = verify_json(delivered)

    assert (told["exit_code"], told["missing"], told["missing_steps"]) == (1, 10, [[50, 59]])

    repaired = verify_json(delivered, "--repair")
    assert (repaired["whole"], len(_lines(server))) == (True, 80)
    steps = [json.loads(_lines(server)[offset])["_step"] for offset in range(70, 80)]
    assert steps == sorted(set(steps))
    assert steps[0] >= 60


def test_a_row_that_is_there_twice_is_told(server: WandbServer, delivered: Path) -> None:
    """Nothing takes a row back from a server; it is said, and the exit code says so."""
    lines = _lines(server)
    lines[70] = lines[5].replace('"_step":5', '"_step":900')

    told = verify_json(delivered, "--repair")

    assert (told["exit_code"], told["missing"], told["doubled"]) == (1, 0, 2)
    assert told["doubled_steps"] == [[5, 5]]
    assert "all 70 rows are there, some of them more than once" in verify(delivered).stdout


def test_a_server_that_does_not_answer_could_not_be_checked(
    server: WandbServer, delivered: Path
) -> None:
    """Neither whole nor different: exit code 2."""
    server.fault = Fault("error", "graphql")

    told = verify_json(delivered)

    assert (told["exit_code"], told["whole"]) == (2, False)
    assert told["error"].startswith("the run's rows cannot be read")


def test_a_server_that_never_answers_is_given_up(server: WandbServer, delivered: Path) -> None:
    """Its client tries for as long as it is let."""
    for segment in delivered.glob("segment-*.jsonl"):
        change_header(segment, hang_timeout_s=2.0)
    server.fault = Fault("hang", "graphql")

    told = verify_json(delivered)

    assert (told["exit_code"], told["whole"]) == (2, False)
    assert told["error"] == "it has shown nothing for 4 s"


def test_a_run_that_is_being_delivered_is_not_compared(delivered: Path) -> None:
    """Its rows are on their way."""
    with locked(delivered, "fasttrack sync"):
        result = verify(delivered)

    assert result.exit_code == 2
    holder = f"fasttrack sync (process {os.getpid()} on this machine) since "
    said = f"fasttrack: ab12 could not be checked: it is being delivered by {holder}"
    assert result.stderr.startswith(said)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_copy_that_may_not_be_written_is_compared(delivered: Path) -> None:
    """Only reading is needed."""
    lock_path(delivered).unlink()
    delivered.chmod(0o500)
    try:
        assert verify_json(delivered)["whole"]
    finally:
        delivered.chmod(0o700)


def test_a_damaged_line_is_named_and_the_rest_compared(delivered: Path) -> None:
    """What cannot be read is nowhere; the server may have it, from before."""
    segment = delivered / "segment-0001.jsonl"
    lines = segment.read_bytes().split(b"\n")
    lines[11] = b"{" + lines[11]
    segment.write_bytes(b"\n".join(lines))

    told = verify_json(delivered)

    assert (told["exit_code"], told["missing"], told["rows"]) == (1, 0, 69)
    assert len(told["damaged"]) == 1
    assert "segment-0001.jsonl" in told["damaged"][0]


def test_a_run_whose_only_header_is_damaged_is_compared(
    server: WandbServer, tmp_path: Path
) -> None:
    """By its directory's name, as it is delivered; "list index out of range" was all it said."""
    rows = rows_of({"loss": [float(step) for step in range(50)]})
    segment = write_attempt(tmp_path, "ab12", *rows, finish(), mode="online")
    assert deliver(segment.parent)["delivered"]
    lines = segment.read_bytes().split(b"\n")
    segment.write_bytes(b"\n".join([b"\x00" * len(lines[0]), *lines[1:]]))

    told = verify_json(segment.parent)
    said = verify(segment.parent)

    assert (told["exit_code"], told["missing"], told["rows"]) == (1, 0, 50)
    assert "all 50 rows are there" in said.stdout
    assert "damaged, so nowhere: segment-0001.jsonl:1 (not JSON)" in said.stdout


def test_a_run_that_holds_nothing_has_nothing_to_compare(tmp_path: Path) -> None:
    """The disk was full when it began."""
    segment = write_attempt(tmp_path, "ab12")
    segment.write_bytes(b'{"kind":"hea')

    result = verify(segment.parent)

    assert result.exit_code == 2
    assert "neither header nor rows" in result.stderr


def test_an_offline_run_is_compared_with_its_file(tmp_path: Path) -> None:
    """Nothing is asked of a server; a file that is cut short lacks its last rows."""
    with make_tracker() as tracker:
        for step in range(300):
            tracker.log_metrics({"loss": step / 4}, step=step)
    directory = run_dir(tmp_path, tracker.get_run_id())
    (offline,) = offline_dirs(tmp_path)

    whole = verify_json(directory)
    (file,) = offline.glob("run-*.wandb")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    cut = verify_json(directory)

    assert (whole["whole"], whole["rows"], whole["place"]) == (True, 300, offline.name)
    assert cut["exit_code"] == 1
    assert cut["missing"] > 50
    assert cut["missing_steps"][-1][-1] == 299


def test_event_files_are_compared_and_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard's numbers have 32 bits; what was cut off is written again."""
    monkeypatch.setenv("FASTTRACK_BACKENDS", "tensorboard")
    with make_tracker() as tracker:
        for step in range(100):
            tracker.log_metrics({"loss": step / 10}, step=step)
    directory = run_dir(tmp_path, tracker.get_run_id())
    (events,) = (tmp_path / "tensorboard").glob("*/events*")

    assert verify_json(directory)["whole"]

    events.write_bytes(events.read_bytes()[:2000])
    assert verify_json(directory)["exit_code"] == 1
    assert verify_json(directory, "--repair")["whole"]


def test_a_run_for_the_journal_only_has_nothing_to_compare(tmp_path: Path) -> None:
    """It was never to be anywhere else."""
    segment = write_attempt(tmp_path, "ab12", *rows_of({"loss": [1.0]}), finish(), backends=())

    result = verify(segment.parent)

    assert result.exit_code == 2
    assert "recorded for the journal only" in result.stderr
