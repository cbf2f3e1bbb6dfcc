"""What `log_media` keeps: the files' contents are those of the arrays, and nothing else is kept."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from support.runs import run_script
from support.trackers import HANG_GUARD_S, Trackers, journal_only

import fasttrack
from fasttrack import Audio, ExperimentTracker, Histogram, Html, Image, Table, Text, Video
from fasttrack.hotpath.media import MediaBudget
from fasttrack.runs.media import LoggedMedia, media_of

if TYPE_CHECKING:
    from collections.abc import Iterator

GENERATOR = np.random.default_rng(0)
BYTES = GENERATOR.integers(0, 256, (6, 5, 3), np.uint8)
GREY = BYTES[:, :, 0]


@pytest.fixture
def tracker() -> Iterator[ExperimentTracker]:
    """A tracker that delivers nowhere."""
    trackers = Trackers()
    yield trackers()
    trackers.finish()


def kept(tracker: ExperimentTracker) -> list[LoggedMedia]:
    """Return all media that were logged so far."""
    assert tracker.flush(HANG_GUARD_S)
    run_dir = tracker.get_run_dir()
    assert run_dir is not None
    return list(media_of(run_dir))


def pixels(path: Path) -> np.ndarray[Any, Any]:
    """Return what another program reads from a picture."""
    with Pillow.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (BYTES, BYTES),
        (GREY, GREY),
        (GREY[:, :, None], GREY),
        (BYTES.transpose(2, 0, 1), BYTES),
        (torch.from_numpy(BYTES), BYTES),
        (torch.from_numpy(BYTES).permute(2, 0, 1), BYTES),
        (BYTES.astype(np.int64), BYTES),
        (BYTES.astype(np.float64) / 255, BYTES),
        (torch.from_numpy(BYTES).float() / 255, BYTES),
        (torch.from_numpy(BYTES).to(torch.bfloat16) / 256, None),
        (GREY > 100, (GREY > 100) * np.uint8(255)),
        (torch.nn.Parameter(torch.from_numpy(GREY).float() / 255), GREY),
        (BYTES[:3, :, :], BYTES[:3]),  # both may be channels: an array has them last,
        (torch.from_numpy(BYTES[:3].copy()), BYTES[:3].transpose(1, 2, 0)),  # a tensor first
        (np.dstack([BYTES, GREY]), np.dstack([BYTES, GREY])),
        (Pillow.fromarray(BYTES), BYTES),
        (Pillow.fromarray(BYTES).convert("P", palette=Pillow.Palette.ADAPTIVE), None),
        (Image(GREY.tolist()), GREY),
    ],
)
def test_picture_is_that_of_the_array(
    tracker: ExperimentTracker, value: Any, shown: np.ndarray[Any, Any] | None
) -> None:
    """Every layout and type that is taken, read back by Pillow."""
    tracker.log_media("a/b", value, 7)

    (media,) = kept(tracker)
    assert (media.name, media.step, media.kind, media.attempt) == ("a/b", 7, "image", 1)
    assert media.path is not None
    found = pixels(media.path)
    if shown is None:  # of fewer shades
        assert np.abs(found.astype(int) - BYTES).mean() < 40
    else:
        assert np.array_equal(found, shown)
    assert tracker.stats().refused == 0


def test_batch_and_list_are_several_pictures_each_with_its_caption(
    tracker: ExperimentTracker,
) -> None:
    """A batch in front of either layout; a list may hold pictures of different sizes."""
    batch = GENERATOR.integers(0, 256, (3, 4, 5, 3), np.uint8)
    tracker.log_media("batch", torch.from_numpy(batch).permute(0, 3, 1, 2), 0)
    tracker.log_media("list", [Image(BYTES, "first"), Image(GREY)], 0)

    first, second = kept(tracker)
    assert [pixels(path).tolist() for path in first.paths] == batch.tolist()
    assert second.captions == ("first", None)
    assert [pixels(path).shape for path in second.paths] == [BYTES.shape, GREY.shape]


def test_figure_of_matplotlib_is_drawn_and_left_as_it_was(tracker: ExperimentTracker) -> None:
    """The size is what the figure says."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1), dpi=50, facecolor="red")
    canvas = figure.canvas
    tracker.log_media("a", figure, 0)

    (media,) = kept(tracker)
    found = pixels(media.paths[0])
    assert found.shape == (50, 100, 4)
    assert found[0, 0].tolist() == [255, 0, 0, 255]
    assert figure.canvas is canvas


def test_what_is_logged_is_what_it_was_at_the_call_and_kept_once(
    tracker: ExperimentTracker,
) -> None:
    """The next step overwrites it; the same contents are one file."""
    value = torch.zeros(4, 4)
    tracker.log_media("a", value, 0)
    value.fill_(1.0)
    tracker.log_media("a", value, 1)
    tracker.log_media("b", value.clone())

    media = kept(tracker)
    assert [(one.step, int(pixels(one.paths[0]).max())) for one in media] == [
        (0, 0),
        (1, 255),
        (1, 255),
    ]
    assert media[1].path == media[2].path
    (folder,) = {one.paths[0].parent for one in media}
    assert len(list(folder.iterdir())) == 2


def test_values_out_of_range_are_cut_which_is_said_once_for_a_name(
    tracker: ExperimentTracker, capsys: pytest.CaptureFixture[str]
) -> None:
    """NaN is black; a picture means the same at every step."""
    value = np.array([[-1.0, 0.5], [2.0, np.nan]])
    for step in range(2):
        tracker.log_media("a", value, step)
    tracker.log_media("b", np.array([[-1, 300]]), 0)

    found = [pixels(one.paths[0]).tolist() for one in kept(tracker)]
    assert found == [[[0, 128], [255, 0]]] * 2 + [[[0, 255]]]
    said = capsys.readouterr().err
    assert said.count("a: values outside 0 to 1") == 1
    assert said.count("b: values outside 0 to 255") == 1


def test_histogram_is_that_of_numpy(tracker: ExperimentTracker) -> None:
    """Of an array of any shape and type; what is not finite is left out."""
    values = GENERATOR.normal(size=(100, 50))
    holed = values.copy()
    holed[0, :3] = [np.nan, np.inf, -np.inf]
    counts, edges = np.histogram(values, 10)
    tracker.log_media("a", Histogram(values, num_bins=10), 0)
    tracker.log_media("b", Histogram(holed), 0)
    tracker.log_media("c", torch.tensor([1, 1, 2], dtype=torch.int32), 0)
    tracker.log_media("d", Histogram(np_histogram=(counts, edges)), 0)

    whole, with_holes, integers, given = kept(tracker)
    assert (whole.kind, whole.path) == ("histogram", None)
    assert whole.counts == tuple(counts)
    assert whole.bins == tuple(edges)
    assert (given.counts, given.bins) == (whole.counts, whole.bins)
    assert sum(with_holes.counts) == values.size - 3
    assert (integers.counts[0], integers.counts[-1], sum(integers.counts)) == (2, 1, 3)


@pytest.mark.parametrize(
    "values", [np.full(8, 2**63, np.uint64), np.array([1.0, np.nextafter(1.0, 2.0)])]
)
def test_histogram_of_numbers_too_close_for_bins_of_their_own_is_drawn(
    tracker: ExperimentTracker, values: np.ndarray[Any, Any]
) -> None:
    """NumPy raises: no numbers lie between them that could be edges."""
    tracker.log_media("close", Histogram(values), 0)

    (drawn,) = kept(tracker)
    assert (sum(drawn.counts), len(set(drawn.bins))) == (values.size, 65)
    assert tracker.stats().worker_errors == 0


def test_text_that_is_not_utf_8_is_kept_as_far_as_it_is(tracker: ExperimentTracker) -> None:
    """Names of files have such letters: the journal's row was lost by a caption, once."""
    tracker.log_media("picture", Image(GREY, "a\ud800b"), 0)
    tracker.log_media("table", Table(["c\ud800"], [["d\ud800"], [["\ud800"]]]), 0)

    picture, table = kept(tracker)
    assert picture.captions == ("a?b",)
    assert table.path is not None
    told = json.loads(table.path.read_text())
    assert told == {"columns": ["c?"], "data": [["d?"], ["['\\ud800']"]]}


@pytest.mark.parametrize("channels_first", [False, True])
def test_sound_is_a_wav_file_of_16_bits(tracker: ExperimentTracker, channels_first: bool) -> None:
    """Read back by the standard library."""
    samples = np.stack([np.linspace(-1, 1, 50), np.linspace(1, -1, 50)], axis=1)
    given = torch.from_numpy(samples.T.copy()) if channels_first else samples
    tracker.log_media("a", Audio(given, sample_rate=8000, caption="two"), 0)

    (media,) = kept(tracker)
    with wave.open(str(media.path), "rb") as sound:
        assert (sound.getnchannels(), sound.getframerate()) == (2, 8000)
        found = np.frombuffer(sound.readframes(99), "<i2").reshape(-1, 2)
    assert np.array_equal(found, np.round(samples * 32767))
    assert (media.kind, media.captions) == ("audio", ("two",))


def test_table_text_and_pages_are_what_was_given(
    tracker: ExperimentTracker, tmp_path: Path
) -> None:
    """Cells that are no plain values are text; those that are not finite, empty."""
    page = tmp_path / "page.html"
    page.write_text("<p>é</p>")
    table = Table(columns=["a", "b"], data=[[1, "x"], [np.float32(0.5), None]])
    table.add_data(float("nan"), Path("p"))
    tracker.log_media("table", table, 0)
    tracker.log_media("array", Table(data=np.arange(4).reshape(2, 2)), 0)
    tracker.log_media("page", Html("<b>"), 0)
    tracker.log_media("file", page, 0)
    tracker.log_media("text", "a < b", 0)
    tracker.log_media("note", Text("\ud800"), 0)

    media = kept(tracker)
    told = [one.paths[0].read_text() for one in media]
    assert json.loads(told[0]) == {
        "columns": ["a", "b"],
        "data": [[1, "x"], [0.5, None], [None, "p"]],
    }
    assert json.loads(told[1]) == {"columns": ["0", "1"], "data": [[0, 1], [2, 3]]}
    assert told[2:] == ["<b>", "<p>é</p>", "a < b", "?"]
    assert [one.kind for one in media] == ["table", "table", "html", "html", "text", "text"]


def test_files_are_kept_as_they_are(tracker: ExperimentTracker, tmp_path: Path) -> None:
    """Read at the call; what they are, their beginning says, not their name."""
    path = tmp_path / "picture.png"
    Pillow.fromarray(BYTES).save(path, "JPEG")
    contents = path.read_bytes()
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0 ftypisom")
    tracker.log_media("a", path, 0)
    path.unlink()
    tracker.log_media("b", tmp_path / "film.mp4", 0)

    picture, film = kept(tracker)
    assert picture.path is not None
    assert (picture.path.suffix, picture.path.read_bytes()) == (".jpg", contents)
    assert (film.kind, film.path and film.path.suffix) == ("video", ".mp4")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (np.zeros((5, 4, 7)), "an array of shape (5, 4, 7) is no picture"),
        (np.zeros((0, 4)), "is no picture"),
        (np.zeros((101, 4, 4, 3), np.uint8), "at most 100 pictures"),
        (torch.zeros(4, 4, dtype=torch.complex64), "a dense tensor of real numbers"),
        (torch.zeros(4, 4).to_sparse(), "a dense tensor of real numbers"),
        (torch.zeros(4, 4, device="meta"), "on the meta device"),
        (np.array([["a"]]), "does not hold real numbers"),
        (object(), "cannot be logged as media"),
        (None, "cannot be logged as media"),
        (Image("text"), "No such file"),
        (Histogram([]), "without elements"),
        (Histogram([float("nan")]), "none of its elements is finite"),
        (Histogram([1.0], num_bins=1000), "num_bins must be"),
        (Histogram(np_histogram=([1], [1])), "are no histogram"),
        (Audio([0.0]), "its sample_rate"),
        (Audio(np.zeros((9, 9)), 8000), "at most 8 channels"),
        (Audio(np.zeros(9, np.uint8), 8000), "16-bit integers, not uint8"),
        (Table(columns=["a"], data=[[1, 2]]), "has 2 cells, for 1 columns"),
        (Table(data=5), "a table's data are rows"),
        (Video(np.zeros(3)), "the path of an MP4"),  # type: ignore[arg-type]
        ([Image(GREY), Audio([0.0], 8000)], "pictures only"),
        (Path("x.xyz"), "a file of type '.xyz'"),
    ],
)
def test_bad_input_is_refused_counted_and_said_once(
    tracker: ExperimentTracker, capsys: pytest.CaptureFixture[str], value: Any, why: str
) -> None:
    """Nothing raises, and nothing of it is kept."""
    for _ in range(2):
        tracker.log_media("bad", value, 0)

    assert kept(tracker) == []
    stats = tracker.stats()
    assert stats.refused + stats.failed_calls == 2
    assert capsys.readouterr().err.count(why) == 1


def test_names_that_w_and_b_cannot_take_are_refused(tracker: ExperimentTracker) -> None:
    """As of metrics; a file is named after them, too."""
    names: list[Any] = ["", "_step", "step", 5, "x" * 201, "\ud800", "a\0b"]
    for name in names:
        tracker.log_media(name, GREY, 0)
    tracker.log_media("a", GREY, 2**53 + 1)
    tracker.log_media("a", GREY, "now")  # type: ignore[arg-type]

    assert kept(tracker) == []
    assert tracker.stats().refused + tracker.stats().failed_calls == len(names) + 2


def test_what_would_wait_for_the_disk_above_the_limit_is_dropped_counted_and_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A picture of its own size fits; a larger one never does. Room is given back."""
    trackers = Trackers()
    tracker = trackers(options=journal_only(media_limit_mb=0.01))
    for step in range(3):
        tracker.log_media("fits", np.full((100, 100), step, np.uint8), step)
        assert tracker.flush(HANG_GUARD_S)
        tracker.log_media("large", np.zeros((200, 100), np.uint8), step)
    trackers.finish()

    assert [one.name for one in kept(tracker)] == ["fits"] * 3
    assert tracker.stats().media_dropped == 3
    assert capsys.readouterr().err.count("of Options.media_limit_mb") == 2  # at once, at the end


def test_budget_counts_what_waits() -> None:
    """To the byte."""
    budget = MediaBudget(1.0)

    assert budget.try_take(2**20 - 1)
    assert not budget.try_take(2)
    assert budget.try_take(1)
    budget.give_back(2**20)
    assert budget.waiting_bytes == 0


def test_disk_that_takes_no_file_loses_the_picture_alone(
    tracker: ExperimentTracker, capsys: pytest.CaptureFixture[str]
) -> None:
    """The row of the step is there, and so is what comes when there is room again."""
    run_dir = tracker.get_run_dir()
    assert run_dir is not None
    (run_dir / "media").write_text("in the way")
    tracker.log_media("a", GREY, 0)
    tracker.log_metrics({"loss": 1.0}, 0)
    assert tracker.flush(HANG_GUARD_S)
    (run_dir / "media").unlink()
    tracker.log_media("a", GREY, 1)

    assert [one.step for one in kept(tracker)] == [1]
    assert tracker.stats().media_dropped == 1
    assert "the disk took no file of it" in capsys.readouterr().err
    assert [row.values for row in fasttrack.open_run(str(run_dir)).history().rows()] == [
        {"loss": 1.0}
    ]


def test_after_the_end_and_where_nothing_is_recorded_nothing_happens(
    tracker: ExperimentTracker, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is counted after the end, as other calls are."""
    tracker.finish()
    tracker.log_media("a", GREY, 0)
    inert = ExperimentTracker(enabled=False)
    inert.log_media("a", GREY, 0)

    assert tracker.stats().late_calls == 1
    assert "after finish()" in capsys.readouterr().err


def test_of_a_device_a_copy_is_made_there_and_nobody_waits() -> None:
    """On a simulated accelerator, whose kernels run when they are let; to wait would raise."""
    result = run_script(
        """
        import os, sys
        import numpy as np, torch
        from support import toy_streams as toy
        kept = toy.install()
        from PIL import Image
        from support.runs import make_tracker
        from support.trackers import journal_only
        import fasttrack

        tracker = make_tracker(options=journal_only())
        base = torch.zeros(3, 4, 5).to("toy")
        toy.Queue.standing = True
        for step in range(3):
            value = base + step / 2
            tracker.log_media("picture", value, step)
            tracker.log_media("numbers", fasttrack.Histogram(value, num_bins=2), step)
            value.fill_(9.0)
        tracker.log_media("counted", fasttrack.Histogram(np_histogram=(base[0, 0], base[0, 1])), 3)
        tracker.log_media("table", fasttrack.Table(data=base[0]), 3)
        waited = toy.Queue.done
        toy.Queue.run()
        tracker.finish()
        for one in fasttrack.open_run(str(tracker.get_run_dir())).media():
            shown = np.asarray(Image.open(one.path)).mean() if one.path else one.bins[1]
            print(one.step, one.kind, shown)
        print(waited, tracker.stats().refused, tracker.stats().failed_calls)
        sys.stdout.flush()
        os._exit(0)
        """
    )

    *media, counts = result.stdout.splitlines()
    assert media == [
        "0 image 0.0",
        "0 histogram 0.0",
        "1 image 128.0",
        "1 histogram 0.5",
        "2 image 255.0",
        "2 histogram 1.0",
    ]
    assert counts == "0 2 0"  # what could only be read by waiting is refused
