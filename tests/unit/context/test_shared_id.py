"""One run id on all ranks: real processes, gloo, and the store that the ranks meet at."""

from __future__ import annotations

import json
import subprocess
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from support.runs import HANG_GUARD_S, start_script

from fasttrack.context import shared_id
from fasttrack.context.group_store import group_store
from fasttrack.context.shared_id import SharedRunId

_PREAMBLE = """
import datetime, json, sys, threading
import torch.distributed as dist
from support.runs import make_tracker, wait_until
from support.trackers import journal_only

rank = int(sys.argv[1])
dist.init_process_group(
    "gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2,
    timeout=datetime.timedelta(seconds=60),
)
shared = journal_only(share_run_id=True)
"""


def run_ranks(tmp_path: Path, script: str) -> list[subprocess.CompletedProcess[str]]:
    """Run `script` on two ranks; return what each printed."""
    source = _PREAMBLE + textwrap.dedent(script)
    ranks = [
        start_script(source, str(rank), str(tmp_path / "meeting"), warnings=None)
        for rank in range(2)
    ]
    done = []
    for rank in ranks:
        stdout, stderr = rank.communicate(timeout=HANG_GUARD_S)
        assert rank.returncode == 0, stderr
        done.append(subprocess.CompletedProcess(rank.args, rank.returncode, stdout, stderr))
    return done


def test_every_rank_gets_the_id_of_the_rank_that_records(tmp_path: Path) -> None:
    """Of each tracker its own; the rank that asks early waits; resumed and disabled runs too."""
    first, second = run_ranks(
        tmp_path,
        """
        if rank == 0:  # the other one is made, and asks, long before
            dist.distributed_c10d._get_default_store().wait(["asking"])
        one = make_tracker(options=shared)
        if rank == 1:
            dist.distributed_c10d._get_default_store().set("asking", "1")
            assert not one.is_active()
        ids = [one.get_run_id()]
        disabled = make_tracker(options=shared, mode="disabled")
        ids.append(disabled.get_run_id())
        two = make_tracker(options=shared, resume_id="given", tags=None)
        alone = make_tracker(options=journal_only())
        three = make_tracker(options=shared)
        ids += [two.get_run_id(), three.get_run_id(), three.get_run_id()]
        print(json.dumps([ids, alone.get_run_id()]))
        for tracker in (one, two, alone, three):
            tracker.finish()
        dist.barrier()
        dist.destroy_process_group()
        """,
    )

    (ids, alone), (others_ids, others_alone) = json.loads(first.stdout), json.loads(second.stdout)
    assert ids == others_ids
    assert (ids[1], ids[2], ids[3]) == (None, "given", ids[4])
    assert len({ids[0], ids[3], alone}) == 3
    assert others_alone is None
    assert "share_run_id" not in first.stderr + second.stderr


def test_recording_rank_may_be_another_than_the_first(tmp_path: Path) -> None:
    """`log_rank` moves it."""
    first, second = run_ranks(
        tmp_path,
        """
        tracker = make_tracker(options=journal_only(share_run_id=True, log_rank=1))
        print(tracker.is_active(), tracker.get_run_id())
        tracker.finish()
        dist.barrier()
        dist.destroy_process_group()
        """,
    )

    (inactive, run_id), (active, others_id) = first.stdout.split(), second.stdout.split()
    assert (inactive, active) == ("False", "True")
    assert run_id == others_id != "None"


def test_rank_that_waits_in_vain_says_why_once_and_only_looks_afterwards(tmp_path: Path) -> None:
    """The recording rank died in its constructor, say. The id is found when it comes after all."""
    _, second = run_ranks(
        tmp_path,
        """
        from fasttrack.context import shared_id

        shared_id.WAIT_S = 0.2
        tracker = make_tracker(options=shared) if rank == 1 else None
        if rank == 1:
            print(tracker.get_run_id(), tracker.get_run_id())
        dist.barrier()
        if rank == 0:
            tracker = make_tracker(options=shared)
        dist.barrier()
        if rank == 1:
            wait_until(lambda: tracker.get_run_id() is not None, 60)
            print(tracker.get_run_id())
        dist.barrier()  # who leaves tells no more
        tracker.finish()
        dist.barrier()
        dist.destroy_process_group()
        """,
    )

    before, after = second.stdout.splitlines()
    assert before == "None None"
    assert after != "None"
    assert second.stderr.count("share_run_id: the run's id is not known here") == 1
    assert "the recording rank told none within 0.2 s" in second.stderr


def test_without_a_process_group_it_is_said_once_and_behaves_as_without(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The id stays with the rank that records."""
    shared = SharedRunId(publish="ab12")

    assert shared.get() is None
    assert shared.get() is None
    said = capsys.readouterr().err
    assert said.count("share_run_id: torch.distributed is not initialised") == 1
    assert "init_process_group" in said


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'one'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_waiting_leaves_the_store_to_others() -> None:
    """A process group may need its client, which serves one call at a time, meanwhile."""
    reader = SharedRunId()
    found: list[str | None] = []
    waiting = threading.Thread(target=lambda: found.append(reader.get()), daemon=True)
    waiting.start()
    store = group_store()
    for number in range(20):
        store.set(f"other/{number}", "x")
    store.set(reader._key, "ab12")
    waiting.join(shared_id.WAIT_S)

    assert found == ["ab12"]
