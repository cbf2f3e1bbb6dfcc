"""The TensorBoard backend: what TensorBoard's own readers find; no row is lost, or there twice."""

from __future__ import annotations

import contextlib
import copy
import math
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import yaml
from support.journals import line_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from fasttrack.delivery.backends.base import Place
from fasttrack.delivery.backends.registry import make_backend
from fasttrack.delivery.backends.tensorboard.backend import TensorBoardBackend
from fasttrack.delivery.backends.tensorboard.event_files import EventFile
from fasttrack.errors import ArtifactRefusedError, BackendLostError, BackendUnavailableError
from fasttrack.journal.cursor import Ledger
from fasttrack.journal.entries import Artifact, Header
from fasttrack.journal.rows import Row
from fasttrack.journal.run_directory import run_directory, segment_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fasttrack.delivery.backends.base import Backend, Session

HEADER = Header(run_id="ab12", name="eo1_lego", project="vla", config={"lr": 0.1}, mode="offline")
MAKE_BACKEND = """
    import itertools, sys
    from fasttrack.delivery.backends.numpy_door import keep_numpy_out
    keep_numpy_out()  # as delivery does
    sys.modules["tensorflow"] = None
    from pathlib import Path
    from fasttrack.delivery.backends.base import Place
    from fasttrack.delivery.backends.registry import make_backend
    from fasttrack.errors import BackendUnavailableError
    from fasttrack.journal.cursor import Ledger
    from fasttrack.journal.entries import Header
    from fasttrack.journal.rows import Row
    from fasttrack.journal.run_directory import run_directory

    header = Header(run_id="ab12")
    run_dir = run_directory(Path(sys.argv[1]), header.run_id)
    place = Place(run_dir=run_dir, ledger=Ledger(), save=print, in_trainer=False)
    backend = make_backend("tensorboard", place)
"""
OPEN_SESSION = f"""{MAKE_BACKEND}
    session = backend.open(header, online=True, timeout_s=1.0)
    segment = run_dir / "segment-0001.jsonl"
    session.settle([segment], [segment])
    session.begin_segment(segment)
"""
EVERYTHING = {"scalars": 0, "tensors": 0}


class Point(NamedTuple):
    """One number, as TensorBoard reads it."""

    step: int
    time_s: float
    value: float


def make_rows(count: int, *, first: int = 0) -> list[Row]:
    """Return rows whose values tell them apart."""
    return [Row(seq, seq, 1e9 + seq, {"loss": float(seq)}) for seq in range(first, first + count)]


def open_backend(base: Path, ledger: Ledger, save: Callable[[], None] = lambda: None) -> Backend:
    """Return a backend for the run of `HEADER` under `base`."""
    run_dir = run_directory(base, HEADER.run_id)
    return TensorBoardBackend(Place(run_dir=run_dir, ledger=ledger, save=save, in_trainer=True))


def journal(base: Path, rows: Sequence[Row], *, attempt: int = 1) -> Path:
    """Write the segment that holds `rows`; return it."""
    segment = run_directory(base, HEADER.run_id) / segment_name(attempt)
    segment.parent.mkdir(parents=True, exist_ok=True)
    segment.write_bytes(content_of(rows))
    return segment


def content_of(rows: Sequence[Row]) -> bytes:
    """Return what a segment of `rows` holds."""
    return line_of(HEADER) + b"".join(map(line_of, rows))


def hand_over(
    base: Path, session: Session, ledger: Ledger, rows: Sequence[Row], *, attempt: int = 1
) -> None:
    """Hand over a pending segment's `rows` as delivery does: those that have not arrived."""
    segment = run_directory(base, HEADER.run_id) / segment_name(attempt)
    if not segment.exists() or segment.read_bytes() != content_of(rows):
        journal(base, rows, attempt=attempt)
    assert session.settle([segment], [segment]) == [segment]
    session.begin_segment(segment)
    for row in rows[ledger.segment(segment.name).arrived :]:
        session.check()
        session.log([row])


def deliver(
    base: Path,
    ledger: Ledger,
    rows: Sequence[Row],
    *,
    attempt: int = 1,
    header: Header = HEADER,
) -> str:
    """Deliver a segment in a session of its own; return the proof."""
    session = open_backend(base, ledger).open(header, online=True, timeout_s=10.0)
    hand_over(base, session, ledger, rows, attempt=attempt)
    session.finish(exit_code=0, preempting=False)
    return session.prove(artifacts=0, timeout_s=10.0)


def folder(base: Path) -> Path:
    """Return where the event files of the run of `HEADER` are."""
    return base / "tensorboard" / HEADER.run_id


def files(base: Path) -> list[Path]:
    """Return the run's event files in the order in which TensorBoard reads them."""
    return sorted(folder(base).glob("*tfevents*"))


def points(base: Path, tag: str = "loss") -> list[Point]:
    """Return what TensorBoard's accumulator, with its rules for purging, has of a metric."""
    accumulator = EventAccumulator(str(folder(base)), size_guidance=EVERYTHING).Reload()
    if tag not in accumulator.Tags()["scalars"]:
        return []
    return [Point(e.step, e.wall_time, e.value) for e in accumulator.Scalars(tag)]


def texts(base: Path, tag: str = "fasttrack/config") -> list[str]:
    """Return what stands under a tag of the text plugin."""
    accumulator = EventAccumulator(str(folder(base)), size_guidance=EVERYTHING).Reload()
    assert tag in accumulator.PluginTagToContent("text")
    return [e.tensor_proto.string_val[0].decode() for e in accumulator.Tensors(tag)]


def rows_in(path: Path) -> int:
    """Return how many rows the file holds, by another of TensorBoard's readers."""
    events = map(Event.FromString, RawEventFileLoader(str(path)).Load())
    return sum(any(v.tag == "loss" for v in event.summary.value) for event in events)


def float32(value: float) -> float:
    """Return the nearest number of 32 bits."""
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def start_script(setup: str, script: str, base: Path) -> subprocess.Popen[str]:
    """Start Python source in a process like delivery's; its output is a pipe."""
    source = textwrap.dedent(setup) + textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", source, str(base)], stdout=subprocess.PIPE, text=True
    )


@contextlib.contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """Let no file grow beyond `size_bytes`, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --- what TensorBoard reads ---------------------------------------------------------------------


def test_backend_is_found_by_its_name(tmp_path: Path) -> None:
    """It is one line in the registry."""
    place = Place(run_dir=tmp_path, ledger=Ledger(), save=lambda: None, in_trainer=True)

    assert isinstance(make_backend("tensorboard", place), TensorBoardBackend)


@pytest.mark.parametrize("seed", range(5))
def test_rows_read_back_are_those_handed_over(tmp_path: Path, seed: int) -> None:
    """Steps that go back, repeat or are negative included; times too."""
    rng = random.Random(seed)
    step, rows = -3, []
    for seq in range(200):
        step += rng.choice((0, 0, 1, 1, 10, -1, -25))
        names = rng.sample(["loss", "train/lr", "gpu/power_w", "ä"], rng.randint(1, 4))
        rows.append(Row(seq, step, 1e9 + seq / 8, {name: rng.gauss(0, 1e3) for name in names}))

    proof = deliver(tmp_path, Ledger(), rows)

    assert proof == "200 rows read back from tensorboard/ab12"
    for name in ("loss", "train/lr", "gpu/power_w", "ä"):
        expected = [
            Point(row.step, row.time_s, float32(row.values[name]))
            for row in rows
            if name in row.values
        ]
        assert points(tmp_path, name) == expected


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.nan, math.nan),
        (math.inf, math.inf),
        (-math.inf, -math.inf),
        (0.1, 0.10000000149011612),
        (2**24, 2.0**24),
        (2**24 + 1, 2.0**24),
        (2**64 - 1, 2.0**64),
        (1e300, math.inf),
        (-1e300, -math.inf),
        (1e-300, 0.0),
        (True, 1.0),
    ],
)
def test_number_is_shown_as_one_of_32_bits(tmp_path: Path, value: float, shown: float) -> None:
    """TensorBoard's default server passes over scalars of any other type."""
    deliver(tmp_path, Ledger(), [Row(0, 0, 1e9, {"loss": value})])

    (point,) = points(tmp_path)
    assert point.value == pytest.approx(shown, abs=0, rel=0, nan_ok=True)


def test_step_beyond_what_an_event_holds_is_its_greatest(tmp_path: Path) -> None:
    """A journal's step may have 64 bits without a sign; delivery must not break over one."""
    rows = [Row(0, 2**64 - 1, 1e9, {"loss": 1.0}), Row(1, 5, 1e9, {"loss": 2.0})]

    deliver(tmp_path, Ledger(), rows)

    assert [(p.step, p.value) for p in points(tmp_path)] == [(2**63 - 1, 1.0), (5, 2.0)]


def test_row_without_values_is_a_row(tmp_path: Path) -> None:
    """Else the next session would hand over one too many."""
    rows = [Row(0, 0, 1e9, {}), *make_rows(2, first=1)]
    ledger = Ledger()

    assert deliver(tmp_path, ledger, rows) == "3 rows read back from tensorboard/ab12"
    assert deliver(tmp_path, Ledger(), rows) == "3 rows read back from tensorboard/ab12"
    assert len(points(tmp_path)) == 2


def test_reader_that_looks_on_sees_rows_at_every_check(tmp_path: Path) -> None:
    """A running TensorBoard keeps its files open and reads on."""
    ledger = Ledger()
    session = open_backend(tmp_path, ledger).open(HEADER, online=True, timeout_s=10.0)
    hand_over(tmp_path, session, ledger, make_rows(3))
    session.check()
    accumulator = EventAccumulator(str(folder(tmp_path)), size_guidance=EVERYTHING).Reload()
    seen = len(accumulator.Scalars("loss"))
    session.log(make_rows(1, first=3))
    before = len(accumulator.Reload().Scalars("loss"))
    session.check()

    assert (seen, before, len(accumulator.Reload().Scalars("loss"))) == (3, 3, 4)
    session.finish(exit_code=0, preempting=False)


def test_session_says_where_the_run_is(tmp_path: Path) -> None:
    """There is no link; the folder is what `--logdir` is for."""
    session = open_backend(tmp_path, Ledger()).open(HEADER, online=True, timeout_s=10.0)

    assert (session.url, session.directory) == (None, folder(tmp_path))
    assert session.uploaded_bytes() is None


def test_a_path_that_tensorboard_cannot_read_is_refused(tmp_path: Path) -> None:
    """Its readers take names as UTF-8 only; trying again would not help."""
    backend = open_backend(tmp_path / "d\udcff", Ledger())

    with pytest.raises(BackendUnavailableError, match="not UTF-8") as caught:
        backend.open(HEADER, online=True, timeout_s=10.0)
    assert caught.value.final


def test_console_and_artifacts_are_not_for_tensorboard(tmp_path: Path) -> None:
    """It has no place for them; delivery asks `takes_artifacts` first."""
    backend = open_backend(tmp_path, Ledger())
    session = backend.open(HEADER, online=True, timeout_s=10.0)
    entry = Artifact(number=1, type="model", name="m", directory="artifacts/segment-0001/0001")

    session.console("stdout", "hello\n")

    assert not backend.takes_artifacts
    assert not backend.has_offline
    with pytest.raises(ArtifactRefusedError):
        session.prepare_artifact(entry, tmp_path)
    with pytest.raises(ArtifactRefusedError):
        session.upload(entry, ["latest"])


# --- configuration --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer:DeprecationWarning")
def test_configuration_is_shown_as_text(tmp_path: Path) -> None:
    """YAML in a block of code: nothing in it is markup."""
    from tensorboard.plugin_util import markdown_to_safe_html

    config = {"lr": 0.1, "model": {"layers": [1, 2]}, "prompt": "**<b>`````\n\n- ü"}
    header = Header(run_id=HEADER.run_id, name="eo1_lego", project="vla", config=config)
    ledger = Ledger()
    session = open_backend(tmp_path, ledger).open(header, online=True, timeout_s=10.0)
    hand_over(tmp_path, session, ledger, make_rows(1))
    session.check()

    (text,) = texts(tmp_path)
    html = markdown_to_safe_html(text)
    (about,) = texts(tmp_path, "fasttrack/run")
    assert yaml.safe_load(text) == config
    assert html.startswith("<pre><code>lr: 0.1\n")
    assert html.count("<") == 4
    assert yaml.safe_load(about) == {"name": "eo1_lego", "project": "vla"}
    session.finish(exit_code=0, preempting=False)


def test_what_is_added_to_the_configuration_replaces_the_text(tmp_path: Path) -> None:
    """Both stand at step 0, of which TensorBoard shows the newer one."""
    ledger = Ledger()
    session = open_backend(tmp_path, ledger).open(HEADER, online=True, timeout_s=10.0)
    hand_over(tmp_path, session, ledger, make_rows(2))
    session.configure({"lr": 0.2, "metadata": {"git": {"commit": "abc"}}})
    session.finish(exit_code=0, preempting=False)

    assert [yaml.safe_load(text) for text in texts(tmp_path)] == [
        {"lr": 0.1},
        {"lr": 0.2, "metadata": {"git": {"commit": "abc"}}},
    ]
    assert session.prove(artifacts=0, timeout_s=1.0) == "2 rows read back from tensorboard/ab12"


def test_later_session_keeps_the_configuration_of_earlier_ones(tmp_path: Path) -> None:
    """It is told the header again, but not what was added in segments that are proven."""
    ledger = Ledger()
    session = open_backend(tmp_path, ledger).open(HEADER, online=True, timeout_s=10.0)
    hand_over(tmp_path, session, ledger, make_rows(1))
    session.configure({"seed": 3})
    session.finish(exit_code=0, preempting=False)
    once = texts(tmp_path)
    deliver(tmp_path, ledger, make_rows(1), attempt=2)
    same = texts(tmp_path)
    resumed = Header(run_id=HEADER.run_id, config={"lr": 0.5})
    deliver(tmp_path, ledger, make_rows(1), attempt=3, header=resumed)

    assert yaml.safe_load(once[-1]) == {"lr": 0.1, "seed": 3}
    assert same == once
    assert yaml.safe_load(texts(tmp_path)[-1]) == {"lr": 0.5, "seed": 3}


def test_texts_are_remembered_as_soon_as_they_are_written(tmp_path: Path) -> None:
    """So that the process which takes a killed one's place does not write them again."""
    ledger, saved = Ledger(), []
    backend = open_backend(tmp_path, ledger, lambda: saved.append(copy.deepcopy(ledger)))
    session = backend.open(HEADER, online=True, timeout_s=10.0)
    hand_over(tmp_path, session, ledger, make_rows(2))
    backend.abandon()
    once = texts(tmp_path)
    deliver(tmp_path, saved[-1], make_rows(3))

    assert len(saved) == 1
    assert texts(tmp_path) == once


# --- rows once ------------------------------------------------------------------------------------


def test_file_torn_at_any_byte_is_completed_by_the_next_session(tmp_path: Path) -> None:
    """A kill leaves a file that ends anywhere; the whole rows in it stay, the others come again."""
    rows, header = make_rows(2), Header(run_id=HEADER.run_id)
    deliver(tmp_path, Ledger(), rows, header=header)
    (written,) = files(tmp_path)
    content = written.read_bytes()
    for size in range(len(content) + 1):
        base = tmp_path / str(size)
        torn = folder(base) / written.name
        torn.parent.mkdir(parents=True)
        torn.write_bytes(content[:size])
        there, ledger = rows_in(torn), Ledger()

        proof = deliver(base, ledger, rows, header=header)

        assert proof == "2 rows read back from tensorboard/ab12"
        assert ledger.segment("segment-0001.jsonl").arrived == there
        assert [p.value for p in points(base)] == [0.0, 1.0]
        shutil.rmtree(base)
    assert there == 2


def test_session_after_a_whole_one_adds_no_row_and_no_file(tmp_path: Path) -> None:
    """Not even without a cursor: the files say which rows they hold."""
    ledger = Ledger()
    deliver(tmp_path, ledger, make_rows(3))
    found = files(tmp_path)

    proof = deliver(tmp_path, ledger, make_rows(3))

    assert proof == "3 rows read back from tensorboard/ab12"
    assert (files(tmp_path), len(points(tmp_path))) == (found, 3)


def test_rows_of_a_segment_do_not_count_for_another(tmp_path: Path) -> None:
    """A resumed run's second attempt begins its own count."""
    ledger = Ledger()
    deliver(tmp_path, ledger, make_rows(3))
    deliver(tmp_path, ledger, make_rows(2, first=10), attempt=2)
    session = open_backend(tmp_path, ledger).open(HEADER, online=True, timeout_s=10.0)

    both = [run_directory(tmp_path, HEADER.run_id) / segment_name(n) for n in (1, 2)]
    assert session.settle(both, both) == both
    assert session.held_rows
    assert [ledger.segment(path.name).arrived for path in both] == [3, 2]
    assert [p.value for p in points(tmp_path)] == [0.0, 1.0, 2.0, 10.0, 11.0]


def test_two_pending_segments_are_two_files_of_one_session(tmp_path: Path) -> None:
    """Each file holds rows of one segment."""
    ledger, parts = Ledger(), (make_rows(3), make_rows(2, first=10))
    both = [journal(tmp_path, rows, attempt=n) for n, rows in enumerate(parts, 1)]
    session = open_backend(tmp_path, ledger).open(HEADER, online=True, timeout_s=10.0)
    session.settle(both, both)
    for path, rows in zip(both, parts, strict=True):
        session.begin_segment(path)
        session.check()
        for row in rows:
            session.log([row])
    session.finish(exit_code=0, preempting=False)

    assert session.prove(artifacts=0, timeout_s=1.0) == "5 rows read back from tensorboard/ab12"
    assert [rows_in(path) for path in files(tmp_path)] == [3, 2]
    assert [p.value for p in points(tmp_path)] == [0.0, 1.0, 2.0, 10.0, 11.0]


def test_files_of_others_are_neither_counted_nor_touched(tmp_path: Path) -> None:
    """A user may write histograms into the run's folder."""
    writer = EventFileWriter(str(folder(tmp_path)))
    event = Event(step=7, wall_time=1e9)
    event.summary.value.add(tag="loss", simple_value=99.0)
    writer.add_event(event)
    writer.close()
    (theirs,) = files(tmp_path)
    content = theirs.read_bytes()

    proof = deliver(tmp_path, Ledger(), make_rows(2))

    assert proof == "2 rows read back from tensorboard/ab12"
    assert theirs.read_bytes() == content
    assert sorted(p.value for p in points(tmp_path)) == [0.0, 1.0, 99.0]


def test_new_file_comes_behind_all_others_whatever_the_clock_says(tmp_path: Path) -> None:
    """TensorBoard never goes back to a file whose name sorts before one it has read."""
    folder(tmp_path).mkdir(parents=True)
    ahead = folder(tmp_path) / "events.out.tfevents.4000000000.segment-0001.fasttrack"
    ahead.touch()

    made = [EventFile(folder(tmp_path), Path(segment_name(1))) for _ in range(3)]

    assert files(tmp_path) == [ahead, *(file.path for file in made)]
    for file in made:
        file.close()


# --- what goes wrong ------------------------------------------------------------------------------


def test_killed_process_leaves_rows_that_the_next_one_completes(tmp_path: Path) -> None:
    """Killed with rows in the file and rows on their way, wherever the last record is cut."""
    script = """
        for seq in itertools.count():
            session.log([Row(seq, seq, 1e9 + seq, {"loss": float(seq)})])
            if seq % 100 == 99:
                session.check()
            if seq == 499:
                print("on the way", flush=True)
    """
    journal(tmp_path, [])
    process = start_script(OPEN_SESSION, script, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "on the way\n"
    process.kill()
    process.communicate()
    there = sum(map(rows_in, files(tmp_path)))
    rows = make_rows(there + 3)

    proof = deliver(tmp_path, Ledger(), rows)

    assert process.returncode == -signal.SIGKILL
    assert there >= 500
    assert proof == f"{there + 3:,} rows read back from tensorboard/ab12"
    assert [p.value for p in points(tmp_path)] == [row.values["loss"] for row in rows]


def test_full_disk_loses_the_session_and_no_row(tmp_path: Path) -> None:
    """What was written whole stays; a later session goes on behind it."""
    rows, ledger = make_rows(5000), Ledger()
    backend = open_backend(tmp_path, ledger)
    session = backend.open(HEADER, online=True, timeout_s=10.0)
    journal(tmp_path, rows)
    with file_size_limit(100_000), pytest.raises(BackendLostError, match="cannot be written"):
        hand_over(tmp_path, session, ledger, rows)
    backend.abandon()
    backend.abandon()
    there = sum(map(rows_in, files(tmp_path)))

    proof = deliver(tmp_path, ledger, rows)

    assert 1000 < there < 5000
    assert proof == "5,000 rows read back from tensorboard/ab12"
    assert [p.value for p in points(tmp_path)] == [row.values["loss"] for row in rows]


def test_disk_that_stays_full_collects_no_files(tmp_path: Path) -> None:
    """A lost backend is opened again and again, as long as the trainer runs."""
    ledger = Ledger()
    backend = open_backend(tmp_path, ledger)
    journal(tmp_path, make_rows(3))
    for _ in range(3):
        session = backend.open(HEADER, online=True, timeout_s=10.0)
        with file_size_limit(10), pytest.raises(BackendLostError):
            hand_over(tmp_path, session, ledger, make_rows(3))
        backend.abandon()
    found = files(tmp_path)

    assert found == []
    assert deliver(tmp_path, ledger, make_rows(3)) == "3 rows read back from tensorboard/ab12"


def test_deleted_folder_loses_the_session_and_comes_back_whole(tmp_path: Path) -> None:
    """Rows written into a deleted file would be gone; all are in the journal."""
    ledger = Ledger()
    backend = open_backend(tmp_path, ledger)
    session = backend.open(HEADER, online=True, timeout_s=10.0)
    hand_over(tmp_path, session, ledger, make_rows(3))
    session.check()
    ledger.segment("segment-0001.jsonl").arrived = 3
    shutil.rmtree(folder(tmp_path))
    with pytest.raises(BackendLostError, match="No such file"):
        session.check()
    backend.abandon()

    assert deliver(tmp_path, ledger, make_rows(4)) == "4 rows read back from tensorboard/ab12"
    assert len(points(tmp_path)) == 4
    assert yaml.safe_load(texts(tmp_path)[-1]) == {"lr": 0.1}


def test_file_that_another_took_the_place_of_loses_the_session(tmp_path: Path) -> None:
    """A copy that was put there gets none of our rows."""
    ledger = Ledger()
    backend = open_backend(tmp_path, ledger)
    session = backend.open(HEADER, online=True, timeout_s=10.0)
    hand_over(tmp_path, session, ledger, make_rows(3))
    (path,) = files(tmp_path)
    other = path.with_name("other")
    shutil.copy(path, other)
    other.replace(path)

    with pytest.raises(BackendLostError, match="another file took its place"):
        session.finish(exit_code=0, preempting=False)
    backend.abandon()
    assert deliver(tmp_path, ledger, make_rows(3)) == "3 rows read back from tensorboard/ab12"
    assert len(points(tmp_path)) == 3


def test_rows_that_do_not_read_back_are_not_proven(tmp_path: Path) -> None:
    """A file cut under our hands has a hole, behind which TensorBoard reads nothing."""
    ledger = Ledger()
    session = open_backend(tmp_path, ledger).open(HEADER, online=True, timeout_s=10.0)
    hand_over(tmp_path, session, ledger, make_rows(3))
    (path,) = files(tmp_path)
    with path.open("r+b") as file:
        file.truncate(10)
    session.finish(exit_code=0, preempting=False)

    with pytest.raises(BackendLostError, match=r"3 of 3 rows are not there \(steps 0 to 2\)"):
        session.prove(artifacts=0, timeout_s=1.0)
    assert deliver(tmp_path, ledger, make_rows(3)) == "3 rows read back from tensorboard/ab12"
    assert len(points(tmp_path)) == 3


def test_run_without_rows_is_proven(tmp_path: Path) -> None:
    """There is nothing to be lost."""
    assert deliver(tmp_path, Ledger(), []) == "no rows"


def test_folder_that_cannot_be_made_is_tried_again(tmp_path: Path) -> None:
    """Not final: the disk may be mounted again."""
    (tmp_path / "tensorboard").touch()

    with pytest.raises(BackendUnavailableError, match="tensorboard") as caught:
        open_backend(tmp_path, Ledger()).open(HEADER, online=True, timeout_s=10.0)
    assert not caught.value.final


def test_machine_without_tensorboard_is_told_what_to_install(tmp_path: Path) -> None:
    """It can be missing, as wandb can."""
    script = """
        sys.modules["tensorboard"] = None
        try:
            backend.open(header, online=True, timeout_s=1.0)
        except BackendUnavailableError as error:
            print(error.final, error)
    """

    told, _ = start_script(MAKE_BACKEND, script, tmp_path).communicate()

    assert told.startswith("True TensorBoard cannot be imported")
    assert told.endswith("pip install 'fasttrack[tensorboard]'\n")


def test_tensorboard_that_does_not_work_is_no_riddle(tmp_path: Path) -> None:
    """An older protobuf refuses newer messages with exceptions of its own."""
    package = tmp_path / "tensorboard"
    package.mkdir()
    (package / "__init__.py").write_text("raise TypeError('Descriptors cannot be created')")
    script = """
        sys.path.insert(0, sys.argv[1])
        try:
            backend.open(header, online=True, timeout_s=1.0)
        except BackendUnavailableError as error:
            print(error.final, error)
    """

    told, _ = start_script(MAKE_BACKEND, script, tmp_path).communicate()

    assert told == "True TensorBoard does not work: Descriptors cannot be created\n"


def test_delivery_process_gets_numpy_and_neither_torch_nor_tensorflow(tmp_path: Path) -> None:
    """The record writer needs numpy; TensorFlow, where it is installed, costs gigabytes."""
    script = """
        session.log([Row(0, 0, 0.0, {"a": 0.5})])
        session.finish(exit_code=0, preempting=False)
        print(session.prove(artifacts=0, timeout_s=1.0))
        heavy = ("torch", "tensorflow", "wandb", "grpc")
        print([name for name in heavy if sys.modules.get(name)])
    """

    journal(tmp_path, [Row(0, 0, 0.0, {"a": 0.5})])

    told, _ = start_script(OPEN_SESSION, script, tmp_path).communicate()

    assert told == "1 rows read back from tensorboard/ab12\n[]\n"
