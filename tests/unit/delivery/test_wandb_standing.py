"""Where a run stands at W&B: against a server that is a list of lines."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from support.listed_server import Scene, make_rows
from support.unprivileged import run_unprivileged

from fasttrack.delivery.backends.wandb import proof
from fasttrack.delivery.backends.wandb.history import Extent, FileHistory
from fasttrack.delivery.backends.wandb.neighbours import Presence, prove_beside_others
from fasttrack.delivery.backends.wandb.offline_directory import mark_synced, online_directories
from fasttrack.delivery.backends.wandb.proof import MOST_READ, prove_online
from fasttrack.delivery.backends.wandb.standing import Placed
from fasttrack.delivery.backends.wandb.steps import MOST_BYTES, StepMapper, fits_alone, parts
from fasttrack.errors import BackendLostError, UnprovenError
from fasttrack.journal.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


LONG = MOST_READ + 1000


def test_a_long_run_is_proven_by_its_count_and_samples(tmp_path: Path) -> None:
    """Reading a million rows back takes minutes; the words say what was looked at."""
    scene = Scene(tmp_path, make_rows(LONG))
    standing = scene.session()
    scene.deliver(standing)

    assert scene.prove(standing) == (
        "the server counts 21,000 rows more than before; "
        "20,000 of them, evenly spaced, were read back"
    )
    assert scene.server.read == 20_000


def test_a_long_run_is_not_read_whole_because_the_server_counts_late(tmp_path: Path) -> None:
    """It shows its last lines a moment after it got them."""
    scene = Scene(tmp_path, make_rows(LONG))
    standing = scene.session()
    scene.deliver(standing)
    last, extent = [scene.server.kept.pop()], scene.server.extent

    def look() -> Extent:
        found = extent()
        scene.server.kept += last
        last.clear()
        return found

    scene.server.extent = look  # type: ignore[method-assign]

    told = prove_online(scene.server, standing, alone=True, timeout_s=60)
    assert told.startswith("the server counts 21,000 rows more than before")
    assert scene.server.read == 20_000


@pytest.mark.parametrize("lost", [{3}, {20_999}, {17_003, 17_004}])
def test_a_gap_in_a_long_run_is_found_by_the_count(tmp_path: Path, lost: set[int]) -> None:
    """Wherever it is: then everything is read, and what is gone is sent behind."""
    scene = Scene(tmp_path, make_rows(LONG))
    standing = scene.session()
    scene.deliver(standing, losing=frozenset(lost))

    with pytest.raises(BackendLostError, match=f"{len(lost)} of 21,000 rows are not there"):
        scene.prove(standing)
    scene.ledger.segment(scene.segment.name).recheck = True
    again = scene.session()

    assert scene.deliver(again) == len(lost)
    assert scene.prove(again) == "21,000 rows read back from the server"


def test_lines_of_others_in_a_long_run_are_not_taken_for_ours(tmp_path: Path) -> None:
    """The count is right, and the samples are not."""
    scene = Scene(tmp_path, make_rows(LONG))
    standing = scene.session()
    scene.deliver(standing)
    for line in scene.server.kept[6_000:15_000]:
        line["loss"] = -1.0

    with pytest.raises(UnprovenError, match="another process writes to this run"):
        scene.prove(standing)


def test_a_long_run_is_read_whole_where_another_session_was_met(tmp_path: Path) -> None:
    """It has overwritten a few lines where no sample is taken, and their number is the same."""
    scene = Scene(tmp_path, make_rows(LONG))
    standing = scene.session()
    scene.deliver(standing)
    for line in scene.server.kept[19_960:19_970]:
        line["loss"] = -1.0

    assert scene.prove(standing).startswith("the server counts 21,000 rows more than before")
    with pytest.raises(UnprovenError, match="10 of 21,000 rows are not there"):
        prove_online(scene.server, standing, alone=True, whole=True, timeout_s=0.0)


def test_what_another_session_has_overwritten_goes_above_all_steps(tmp_path: Path) -> None:
    """Its line came last and its step is lower: the client would go on among our own steps."""
    scene = Scene(tmp_path, [Row(n, 100 + n, 0.0, {"loss": float(n)}) for n in range(10)])
    kept = scene.server.kept
    scene.deliver(scene.session())
    del kept[4]
    kept.append({"loss": -1.0, "step": 50, "_step": 50})
    scene.ledger.segment(scene.segment.name).recheck = True
    again = scene.session()

    assert scene.deliver(again) == 1
    assert (kept[-1]["step"], kept[-1]["_step"]) == (104, 110)
    assert scene.prove(again) == "10 rows read back from the server"


def test_a_step_that_goes_on_after_a_restart_loses_nothing(tmp_path: Path) -> None:
    """Metrics that come to a step which the server has already get a line of their own."""
    scene = Scene(tmp_path, [Row(0, 5, 0.0, {"a": 1.0})])
    scene.deliver(scene.session())
    again = scene.session()
    late = Row(1, 5, 0.0, {"b": 2.0})

    assert again.place(scene.rows[0]) == []
    assert again.place(late) == [Placed(6, late)]


def test_half_of_a_merged_step_is_completed(tmp_path: Path) -> None:
    """The client died with one of two rows of a step that share a line."""
    rows = [Row(0, 5, 0.0, {"a": 1.0}), Row(1, 5, 0.0, {"b": 2.0})]
    scene = Scene(tmp_path, rows)
    scene.server.kept.append({"a": 1.0, "step": 5, "_step": 5})
    standing = scene.session()

    assert scene.deliver(standing) == 1
    assert scene.prove(standing) == "2 rows read back from the server"


@pytest.mark.parametrize("steps", [(0, 10**15), (10**12, 10**12 + 1)])
def test_a_run_of_huge_steps_is_read_where_its_rows_are(
    tmp_path: Path, steps: tuple[int, int]
) -> None:
    """Some take the time for a step; `_step` is never below it."""
    scene = Scene(tmp_path, [Row(n, step, 0.0, {"a": 1.0}) for n, step in enumerate(steps)])
    standing = scene.session()
    scene.deliver(standing)

    assert scene.prove(standing) == "2 rows read back from the server"
    assert scene.server.width < 10**7


def test_a_row_that_no_line_can_hold_is_cut_the_same_way_each_time() -> None:
    """In parts that fit; rows that would exceed it together are not merged."""
    values = {f"metric/{number:06d}": float(number) for number in range(400_000)}

    cut = list(parts(values))

    assert len(cut) > 1
    assert {name: value for part in cut for name, value in part.items()} == values
    assert cut == list(parts(values))
    mapper = StepMapper(-1)
    assert [mapper.place(7, part) for part in cut] == [7 + n for n in range(len(cut))]
    assert list(parts({"a": 1.0})) == [{"a": 1.0}]


def test_a_name_that_no_line_can_hold_is_refused_by_name() -> None:
    """By its size in JSON as the client writes it."""
    assert fits_alone("a" * (MOST_BYTES - 100))
    assert not fits_alone("a" * MOST_BYTES)
    assert not fits_alone("<" * (MOST_BYTES // 5))


def test_a_refused_metric_is_noted_and_the_rest_is_placed(tmp_path: Path) -> None:
    """Once a metric, with its first step."""
    long = "x" * MOST_BYTES
    scene = Scene(tmp_path, [Row(n, 3 + n, 0.0, {long: 1.0, "a": 2.0}) for n in range(2)])
    standing = scene.session()

    assert scene.deliver(standing) == 2
    assert scene.prove(standing) == "2 rows read back from the server"
    assert scene.ledger.segment(scene.segment.name).refused == {
        "x" * 80: "from step 3 on: its name is too long"
    }


def test_sessions_of_one_run_see_each_other_while_they_are_open() -> None:
    """By server, project and run; whoever has left is not seen."""
    first, second = Presence("http://a", "p", "r"), Presence("http://a", "p", "r")
    other = Presence("http://b", "p", "r")

    assert (first.others(), second.others(), other.others()) == ([os.getpid()], [os.getpid()], [])

    second.close()
    second.close()
    assert first.others() == []
    for one in (first, other):
        one.close()


def test_a_session_that_has_come_and_gone_was_met() -> None:
    """Whatever it has overwritten, the number of lines is the same: all rows are looked at."""
    with contextlib.closing(Presence("http://a", "p", "met")) as first:
        alone = first.visits()
        with contextlib.closing(Presence("http://a", "p", "met")) as second:
            seen = second.visits()
        Presence("http://a", "p", "another").close()

        assert (alone, seen, first.visits(), first.others()) == (0, 1, 1, [])
        Presence("http://a", "p", "met").close()
        assert first.visits() == 2
    with contextlib.closing(Presence("http://a", "p", "met")) as third:
        assert not third.visits()


def test_names_of_other_sockets_are_no_trouble() -> None:
    """Anybody on the machine may give one any bytes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as odd:
        odd.bind(b"\0fasttrack-odd-\xff\xfe\n")
        first, second = (Presence("http://a", "p", "odd") for _ in range(2))
        with contextlib.closing(first), contextlib.closing(second):
            assert first.others() == [os.getpid()]


def test_where_there_can_be_no_socket_nobody_is_seen_and_nothing_is_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Out of descriptors, for one: rows are delivered all the same."""

    def fail(*arguments: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", fail)
    with contextlib.closing(Presence("http://a", "p", "none")) as alone:
        assert (alone.visits(), alone.others()) == (0, [])


def test_rows_are_looked_at_once_more_where_another_came_and_went_meanwhile() -> None:
    """As a whole then: it may have overwritten some of them, and their number is the same."""
    looks: list[bool] = []

    def prove(*, whole: bool) -> str:
        looks.append(whole)
        if len(looks) < 3:
            Presence("http://a", "p", "passing").close()
        return f"look {len(looks)}"

    with contextlib.closing(Presence("http://a", "p", "passing")) as first:
        assert prove_beside_others(prove, first) == "look 3"
        assert looks == [False, True, True]
        with (
            contextlib.closing(Presence("http://a", "p", "passing")),
            pytest.raises(UnprovenError, match="delivers to this run, too"),
        ):
            prove_beside_others(prove, first)
    assert prove_beside_others(prove, None) == "look 5"


def test_more_visitors_than_a_socket_holds_keep_nobody_waiting() -> None:
    """Each tells those that are there, which may never look: a run of months and its copies."""
    with contextlib.closing(Presence("http://a", "p", "busy")) as first:
        for _ in range(2000):
            Presence("http://a", "p", "busy").close()

        assert first.visits()


def test_a_forked_child_does_not_hold_its_parents_session_open() -> None:
    """A DataLoader's workers live on; the run's next session is not told of them."""
    first = Presence("http://a", "p", "forked")
    told, tells = os.pipe()
    awaited, ends = os.pipe()
    child = os.fork()
    if not child:
        os.close(ends)
        os.write(tells, b".")
        os.read(awaited, 1)  # until the parent has looked
        os._exit(0)
    os.read(told, 1)
    first.close()
    with contextlib.closing(Presence("http://a", "p", "forked")) as second:
        others = second.others()
    for fd in (told, tells, awaited, ends):
        os.close(fd)
    os.waitpid(child, 0)

    assert others == []


def test_directories_of_a_run_whose_id_ends_alike_are_not_its_own(tmp_path: Path) -> None:
    """They would be removed where this run cannot be opened."""
    for name in (
        "run-20260101_000000-a",
        "run-20260101_000000-b-a",
        "offline-run-20260101_000000-a",
    ):
        (tmp_path / "wandb" / name).mkdir(parents=True)

    assert online_directories(tmp_path, "a") == {tmp_path / "wandb" / "run-20260101_000000-a"}


def test_a_file_that_was_completed_while_it_was_read_is_read_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To read a long run takes longer than wandb-core has to close the file."""
    scene = Scene(tmp_path, make_rows(3))
    standing = scene.session()
    looks: list[bool] = []
    now_s = [0.0]

    class Closing(FileHistory):
        """A file that is whole from the second look on."""

        def rows(self) -> Iterator[dict[str, object]]:
            self.ended = bool(looks)
            looks.append(self.ended)
            now_s[0] += 100.0
            return iter([{**row.values, "step": row.step} for row in scene.rows])

    monkeypatch.setattr(proof, "FileHistory", Closing)

    def sleep(seconds: float) -> None:
        now_s[0] += seconds

    clock = SimpleNamespace(monotonic=lambda: now_s[0], sleep=sleep)
    monkeypatch.setattr(proof, "time", clock)
    told = proof.prove_file(tmp_path, standing, artifacts=0, timeout_s=10.0)

    assert (told, looks) == (f"3 rows read back from {tmp_path.name}", [False, True])


@pytest.mark.parametrize(
    ("lines", "ended", "artifacts", "why"),
    [
        ([0, 1, 2, 1], True, 0, "1 values are there more often than they were logged (steps 1)"),
        ([0, 2], True, 0, "1 of 3 rows are not there (steps 1)"),
        ([0, 1, 2], False, 0, "it was not written to its end"),
        ([0, 1, 2], True, 1, "it holds 1 of 0 artifacts"),
    ],
)
def test_each_fault_of_a_file_has_words_of_its_own(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[int],
    ended: bool,
    artifacts: int,
    why: str,
) -> None:
    """A row that was there twice was "not written to its end"."""
    scene = Scene(tmp_path, make_rows(3))
    standing = scene.session()

    class Faulty(FileHistory):
        """A file that holds these lines."""

        def rows(self) -> Iterator[dict[str, object]]:
            self.ended, self.artifacts = ended, artifacts
            return iter([{"loss": float(step), "step": step} for step in lines])

    monkeypatch.setattr(proof, "FileHistory", Faulty)
    with pytest.raises(BackendLostError) as raised:
        proof.prove_file(tmp_path, standing, artifacts=0, timeout_s=0.0)

    assert str(raised.value) == f"{tmp_path.name}: {why}"


def test_all_that_is_read_back_is_progress(tmp_path: Path) -> None:
    """A million rows took longer than any call may, and their delivery was begun anew."""
    scene = Scene(tmp_path, make_rows(100))
    scene.session()
    moved: list[None] = []
    standing = scene.session(progress=lambda: moved.append(None))
    scene.deliver(standing)
    before = len(moved)
    scene.prove(standing)

    assert len(moved) - before >= 2 * 100  # of the journal, and of the server


def test_a_directory_that_may_not_be_written_is_told(tmp_path: Path) -> None:
    """All its rows are on the server: `wandb sync` would send them a second time."""
    directory = tmp_path / "offline-run-20260101_000000-a"
    directory.mkdir()
    (directory / "run-a.wandb").touch()
    source = (
        "import sys; from pathlib import Path; "
        "from fasttrack.delivery.backends.wandb.offline_directory import mark_synced; "
        "print(mark_synced(Path(sys.argv[1])))"
    )
    directory.chmod(0o500)
    result = run_unprivileged("-c", source, str(directory))
    directory.chmod(0o700)

    assert result.stdout + result.stderr == (
        f"{directory.name} cannot be marked as uploaded (Permission denied): "
        "never 'wandb sync' it\n"
    )
    assert mark_synced(directory) is None
    directory.chmod(0o500)
    marked_before = run_unprivileged("-c", source, str(directory))
    directory.chmod(0o700)
    assert marked_before.stdout == "None\n"
