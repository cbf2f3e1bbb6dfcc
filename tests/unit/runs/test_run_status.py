"""What became of a run: its trainer's fate, and what is proven to have arrived where."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import time
from typing import TYPE_CHECKING, Any

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

from fasttrack.journal.cursor import load_cursor
from fasttrack.journal.run_directory import cursor_path
from fasttrack.runs import DeliveryStatus, find_delivery, find_run, find_status
from fasttrack.runs.status import seems_delivered

if TYPE_CHECKING:
    from pathlib import Path


def delivery_of(run_id: str = "ab") -> DeliveryStatus:
    """Return what is proven of a run."""
    return find_delivery(find_run(run_id))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of two attempts with 50 rows and 1, delivered nowhere yet."""
    write_attempt(tmp_path, "ab", *rows_of({"loss": [1.0] * 50}), finish())
    return write_attempt(tmp_path, "ab", row(0, 50, loss=1.0), finish()).parent


@pytest.mark.parametrize(
    ("exit_code", "preempting", "word"),
    [(0, False, "finished"), (3, False, "failed"), (0, True, "preempted"), (9, True, "preempted")],
)
def test_last_line_says_how_a_run_ended(
    tmp_path: Path, exit_code: int, preempting: bool, word: str
) -> None:
    """Whatever became of the process since."""
    write_attempt(tmp_path, "ab", row(0, 0, loss=1.0), finish(exit_code, preempting=preempting))
    status = find_status(find_run("ab"))

    assert (status.word, status.exit_code) == (word, exit_code)
    assert status.ended_s == pytest.approx(time.time(), abs=60)


def test_running_run_is_told_by_its_process(tmp_path: Path) -> None:
    """And not taken for running when its process id has gone to a younger process."""
    segment = write_attempt(tmp_path, "ab", pid=os.getpid())
    running = find_status(find_run("ab"))
    change_header(segment, time_s=time.time() - 1e9)

    assert dataclasses.astuple(running) == ("running", None, None)
    assert find_status(find_run("ab")).word == "crashed"


def test_run_without_its_last_line_whose_process_is_gone_has_crashed(tmp_path: Path) -> None:
    """Also where half of that line was written."""
    write_attempt(tmp_path, "ab", row(0, 0, loss=1.0))
    append(write_attempt(tmp_path, "cd"), torn=b'{"kind":"finish","exit_code":0')

    assert find_status(find_run("ab")).word == find_status(find_run("cd")).word == "crashed"


@pytest.mark.parametrize(("silent_s", "word"), [(0, "running?"), (301, "unknown")])
def test_run_of_another_host_is_judged_by_its_last_line(
    tmp_path: Path, silent_s: float, word: str
) -> None:
    """Its process cannot be asked for; the time of a copied file would tell nothing."""
    host = f"not-{socket.gethostname()}"
    segment = write_attempt(tmp_path, "ab", row(0, 0, time.time() - silent_s, loss=1.0), host=host)
    append(segment, torn=b'{"kind":"row","torn')

    assert find_status(find_run("ab")).word == word


def test_run_with_a_damaged_header_is_judged_as_one_of_another_host(tmp_path: Path) -> None:
    """Nobody knows which process wrote it."""
    segment = write_attempt(tmp_path, "ab", row(0, 0, time.time() - 1000, loss=1.0))
    segment.write_bytes(b"\x00\n" + segment.read_bytes().split(b"\n", 1)[1])

    assert find_status(find_run("ab")).word == "unknown"


def test_word_goes_from_no_over_partly_and_offline_dir_to_server(run_dir: Path) -> None:
    """It is the worst of the attempts, and a proof of the server's beats one of a directory."""
    words = [delivery_of().word]
    write_proofs(run_dir, offline_proof="50 rows read back", attempts={1})
    words.append(delivery_of().word)
    write_proofs(run_dir, offline_proof="rows read back")
    words.append(delivery_of().word)
    write_proofs(run_dir, proof="the server's last step is 49", attempts={1})
    words.append(delivery_of().word)
    write_proofs(run_dir, proof="the server's last step is 50", url="https://x")
    words.append(delivery_of().word)

    assert words == ["no", "partly", "offline dir", "offline dir", "server"]
    assert delivery_of().proofs == ["the server's last step is 50"]
    assert (delivery_of().rows, delivery_of().url) == (51, "https://x")


def test_proof_holds_for_the_rows_that_were_there_when_it_was_made(run_dir: Path) -> None:
    """A row that came later is delivered nowhere."""
    write_proofs(run_dir, proof="the server's last step is 50")
    append(run_dir / "segment-0002.jsonl", row(1, 51, loss=1.0))
    grown = delivery_of()

    assert grown.word == "partly"
    assert [(s.rows, s.proof) for s in grown.segments] == [
        (50, "the server's last step is 50"),
        (2, None),
    ]


def test_damaged_rows_do_not_spoil_a_proof(run_dir: Path) -> None:
    """They are no rows: nothing can deliver them."""
    write_proofs(run_dir, proof="seen")
    with (run_dir / "segment-0002.jsonl").open("ab") as file:
        file.write(b'{"kind":"row","seq":1}\n')

    assert delivery_of().word == "server"
    assert delivery_of().rows == 51


def test_artifact_that_is_pending_makes_it_partly(run_dir: Path) -> None:
    """One that is off for good does not: it never will arrive."""
    write_proofs(run_dir, proof="seen")
    cursor = load_cursor(cursor_path(run_dir))
    artifacts = cursor.ledger("wandb").segment("segment-0001.jsonl").artifacts
    artifacts.update({"1": "version 3", "2": None})
    cursor.save(cursor_path(run_dir))
    pending = delivery_of()
    artifacts["2"] = "its files changed"
    cursor.save(cursor_path(run_dir))

    assert (pending.word, delivery_of().word) == ("partly", "server")
    assert [pending.artifact(1, n) for n in (1, 2, 3)] == ["version 3", None, None]
    assert delivery_of().artifact(1, 2) == "its files changed"


BOTH: dict[str, Any] = {"backends": ("wandb", "tensorboard")}


def test_each_backend_has_a_word_and_the_run_the_worst_of_them(tmp_path: Path) -> None:
    """TensorBoard's destination is a directory: its proof is of files, and it has no stand-in."""
    run_dir = write_attempt(tmp_path, "ab", row(0, 0, loss=1.0), finish(), **BOTH).parent
    nothing = delivery_of()
    write_proofs(run_dir, "tensorboard", proof="1 row read back", directory="/t/ab")
    one = delivery_of()
    write_proofs(run_dir, "wandb", offline_proof="1 rows read back", directory="/w")
    two = delivery_of()
    write_proofs(run_dir, "wandb", proof="the last step is 0", directory="/w", url="https://x")
    all_of_it = delivery_of()

    words = [{b.backend: b.word for b in d.backends} for d in (nothing, one, two, all_of_it)]
    assert words == [
        {"wandb": "no", "tensorboard": "no"},
        {"wandb": "no", "tensorboard": "files"},
        {"wandb": "offline dir", "tensorboard": "files"},
        {"wandb": "server", "tensorboard": "files"},
    ]
    assert [d.word for d in (nothing, one, two, all_of_it)] == [
        "no",
        "no",
        "offline dir",
        "server",
    ]
    assert [d.is_complete for d in (nothing, one, two, all_of_it)] == [False, False, False, True]
    assert all_of_it.proofs == ["the last step is 0", "1 row read back"]
    assert [b.directory for b in all_of_it.backends] == ["/w", "/t/ab"]


def test_run_to_tensorboard_alone_is_in_files(tmp_path: Path) -> None:
    """No server has a part in it."""
    run_dir = write_attempt(tmp_path, "ab", finish(), backends=("tensorboard",)).parent
    write_proofs(run_dir, "tensorboard", proof="0 rows read back", directory="/t/ab")

    assert (delivery_of().word, delivery_of().url) == ("files", None)


def test_run_without_backends_is_in_the_journal(tmp_path: Path) -> None:
    """Nothing waits to be delivered; its rows are counted all the same."""
    write_attempt(tmp_path, "ab", row(0, 0, loss=1.0), backends=())
    delivery = delivery_of()

    assert (delivery.word, delivery.backends, delivery.rows) == ("journal", (), 1)
    assert delivery.is_complete
    assert [(s.attempt, s.rows, s.proof) for s in delivery.segments] == [(1, 1, None)]


def test_each_attempt_is_told_for_the_backends_that_it_had(tmp_path: Path) -> None:
    """What an earlier one left undelivered is not forgotten where the newest has another."""
    write_attempt(tmp_path, "ab", finish(), **BOTH)
    write_attempt(tmp_path, "ab", finish(), backends=("wandb",))
    attempts = {
        one.backend: [segment.attempt for segment in one.segments] for one in delivery_of().backends
    }

    assert attempts == {"wandb": [1, 2], "tensorboard": [1]}
    assert not delivery_of().is_complete


def test_cursor_of_version_1_is_told_as_ever(run_dir: Path) -> None:
    """As the code before the redesign wrote it: W&B's own facts, the directory by its name."""
    state: dict[str, Any] = {
        "rows": 50,
        "base_step": -1,
        "last_step": 49,
        "arrived": 0,
        "size_bytes": 1,
        "online_proof": None,
        "offline_proof": "50 rows read back from offline-run-1-ab",
        "artifacts": {},
    }
    saved = {
        "version": 1,
        "url": None,
        "open_directory": None,
        "offline_directories": ["offline-run-1-ab"],
        "segments": {"segment-0001.jsonl": state},
    }
    cursor_path(run_dir).write_text(json.dumps(saved))
    delivery = delivery_of()
    (wandb,) = delivery.backends

    assert (delivery.word, delivery.offline_directories) == ("partly", ["offline-run-1-ab"])
    assert wandb.directory == str(run_dir.parents[1] / "offline-run-1-ab")
    assert delivery.proofs == ["50 rows read back from offline-run-1-ab"]


def test_whether_all_seems_delivered_is_told_by_the_cursor_alone(tmp_path: Path) -> None:
    """For those who ask it of many runs: no rows are counted; every backend must have all."""
    run_dir = write_attempt(tmp_path, "ab", row(0, 0, loss=1.0), finish(), **BOTH).parent
    write_attempt(tmp_path, "cd", backends=())
    write_proofs(run_dir, "wandb", proof="seen")
    half = seems_delivered(find_run("ab"))
    write_proofs(run_dir, "tensorboard", offline_proof="seen")
    stand_in = seems_delivered(find_run("ab"))
    write_proofs(run_dir, "tensorboard", proof="seen")

    assert (half, stand_in, seems_delivered(find_run("ab"))) == (False, False, True)
    assert seems_delivered(find_run("cd"))
