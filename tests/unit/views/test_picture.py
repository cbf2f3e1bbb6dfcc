"""Pictures of runs: what is in them is read back from the files that were written."""

from __future__ import annotations

import itertools
import math
import re
import struct
from typing import TYPE_CHECKING, Any

import pytest
from support.journals import finish, rows_of, write_attempt
from support.late import Late, need

from fasttrack.errors import FasttrackError
from fasttrack.runs import find_run, list_runs
from fasttrack.views.fitting import wrap
from fasttrack.views.panel import Panel, choose
from fasttrack.views.picture import draw, make_figure, rows_of_panels
from fasttrack.views.series import Series
from fasttrack.views.style import colors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from matplotlib.text import Text

need("matplotlib", "pictures need matplotlib")
image = Late("matplotlib.image")

BLUE, ORANGE, ALARM = (0x09, 0x69, 0xDA), (0xE3, 0x62, 0x09), (0xCF, 0x22, 0x2E)
LONG = "train/optimizer/parameter_group_0/the_really_long_name_of_a_layer/gradient_norm"
SENTENCE = "a name that somebody gave by hand to a run that stands for all that was tried " * 2


def metrics_of(steps: range) -> dict[str, list[float]]:
    """Return metrics as a tracker records them, some of whose values are not finite."""
    return {
        "loss/total": [math.nan if 60 <= step < 65 else 1 / (step + 1) for step in steps],
        "train/grad_norm": [1.0 + step for step in steps],
        "perf/step_time_ms/p50": [1.0 + step % 2 for step in steps],
        "perf/step_time_ms/p99": [3.0 + step % 2 for step in steps],
        "x/score": [float(step) for step in steps],
        "y": [-math.inf for _ in steps],
        "eval/loss": [0.5],
        "eval/accuracy": [0.9],
    }


@pytest.fixture
def recorded(tmp_path: Path) -> str:
    """The id of a run of two attempts, the second of which went back ten steps."""
    for steps in range(50), range(40, 100):
        rows = rows_of(metrics_of(steps), first_step=steps.start)
        write_attempt(tmp_path, "ab12", *rows, finish(), name="a_$run$")
    return "ab12"


@pytest.fixture
def three(tmp_path: Path) -> list[str]:
    """The ids of three runs, of which two have the same name; one has a metric of its own."""
    for run_id, name in ("ab", "same"), ("cd", "same"), ("ef", "other"):
        metrics = metrics_of(range(20)) | ({"only/here": [1.0]} if run_id == "ef" else {})
        write_attempt(tmp_path, run_id, *rows_of(metrics), finish(), name=name)
    return ["ab", "cd", "ef"]


def draw_runs(path: Path, *run_ids: str, metrics: tuple[str, ...] = ()) -> Path:
    """Draw runs into a file; return its path."""
    draw([find_run(run_id) for run_id in run_ids], path, metrics=metrics)
    return path


def text_of(svg: Path) -> list[str]:
    """Return the words in an SVG picture; matplotlib draws letters, and names them beside."""
    return re.findall(r"<!-- (.*?) -->", svg.read_text(encoding="utf-8"))


def size_of(png: Path) -> tuple[int, int]:
    """Return width and height in the header of a PNG."""
    head = png.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:])
    return width, height


def count_pixels(png: Path, color: tuple[int, int, int]) -> int:
    """Return how many pixels have exactly this color."""
    pixels = (image.imread(png)[:, :, :3] * 255).round()
    return int((pixels == color).all(axis=2).sum())


def test_picture_is_a_png_of_1600_pixels_with_lines_and_marks(
    recorded: str, tmp_path: Path
) -> None:
    """Sharp where 800 are shown."""
    picture = draw_runs(tmp_path / "a.png", recorded)
    width, height = size_of(picture)

    assert width == 1600
    assert 900 < height < 1400
    assert count_pixels(picture, BLUE) > 1000
    assert count_pixels(picture, ALARM) > 20


def test_overview_names_the_run_its_panels_axes_and_lines(recorded: str, tmp_path: Path) -> None:
    """What the run has of the overview, with units, and the run's name taken as it stands."""
    text = text_of(draw_runs(tmp_path / "a.svg", recorded))

    assert {"a_$run$", f"vla-lego  ·  run {recorded}  ·  2 attempts"} <= set(text)
    panels = [word for word in text if word in {"Loss", "Accuracy", "Gradient norm", "Step time"}]
    assert panels == ["Loss", "Accuracy", "Gradient norm", "Step time"]
    assert "Learning rate" not in text
    assert text.count("step") == 4
    assert {"loss/total", "eval/loss", "not finite", "p50", "p99", "ms"} <= set(text)
    assert not {"x/score", "y"} & set(text)


def test_asked_for_metrics_are_drawn_exactly_a_panel_each_once(
    recorded: str, tmp_path: Path
) -> None:
    """In the order of the patterns; one that matches again adds nothing."""
    patterns = ("x/*", "*/loss", "x/score")
    text = text_of(draw_runs(tmp_path / "a.svg", recorded, metrics=patterns))

    assert text.count("step") == 2
    assert text.index("x/score") < text.index("eval/loss")
    assert "loss/total" not in text


def test_metric_that_is_nowhere_finite_is_drawn_as_marks_only(
    recorded: str, tmp_path: Path
) -> None:
    """A run that diverged at once must be drawn too."""
    picture = draw_runs(tmp_path / "a.png", recorded, metrics=("y",))

    assert count_pixels(picture, ALARM) > 100


def test_values_as_large_as_a_double_can_be_are_drawn(tmp_path: Path) -> None:
    """The step from the least to the greatest of them is no double any more."""
    values = [1.7976931348623157e308, -1.7976931348623157e308, 1e-308, math.inf, 1e299]
    write_attempt(tmp_path, "ab12", *rows_of({"loss/total": values}), finish())
    path = tmp_path / "out.png"

    draw([find_run("ab12")], path, metrics=["loss/total"])

    assert image.imread(path).shape[1] == 1600
    assert Series(enumerate(values)).range() == [-1e300, 1e300]


def test_several_runs_are_drawn_over_each_other_in_a_color_each(
    three: list[str], tmp_path: Path
) -> None:
    """The legend tells runs of the same name apart by their ids, and metrics by their dashes."""
    picture = draw_runs(tmp_path / "a.png", "ab", "cd", metrics=("x/score",))
    text = text_of(draw_runs(tmp_path / "a.svg", *three))

    assert min(count_pixels(picture, color) for color in (ORANGE,)) > 500
    assert {"vla-lego  ·  3 runs", "same (ab)", "same (cd)", "other"} <= set(text)
    assert text.count("Loss") == text.count("loss/total") == text.count("eval/loss") == 1


def test_metric_of_one_run_only_is_drawn_among_several(three: list[str], tmp_path: Path) -> None:
    """The others have no line in its panel."""
    figure = make_figure([find_run(run_id) for run_id in three], ["only/*", "x/score"])

    assert [len(axes.lines) for axes in figure.axes] == [1, 3]
    assert figure.axes[0].lines[0].get_color() == colors(3)[2]


@pytest.mark.parametrize(
    ("run_ids", "metrics", "said"),
    [
        (
            ["ab12"],
            ["x/*", "nothing"],
            r"^the run has no metric 'nothing'; it has: eval/accuracy, eval/loss, loss/",
        ),
        (
            ["ab12", "cd"],
            ["nothing"],
            r"^the runs have no metric 'nothing'; they have: eval/accuracy, ",
        ),
    ],
)
def test_metric_that_is_not_there_is_an_error_that_names_the_others(
    recorded: str, tmp_path: Path, run_ids: list[str], metrics: list[str], said: str
) -> None:
    """Drawing what is left would hide a typing error."""
    write_attempt(tmp_path, "cd", *rows_of({"loss": [1.0]}))
    with pytest.raises(FasttrackError, match=said):
        make_figure([find_run(run_id) for run_id in run_ids], metrics)


def test_run_without_rows_says_so(tmp_path: Path) -> None:
    """A run that has only begun is no error of the journal's."""
    write_attempt(tmp_path, "ab")

    with pytest.raises(FasttrackError, match=r"^the run has no metrics yet$"):
        draw_runs(tmp_path / "a.png", "ab")


# --- texts that fit -------------------------------------------------------------------------------


def texts_of(figure: Any) -> Iterator[Text]:
    """Yield all texts of a figure but the numbers at its axes, which matplotlib places itself."""
    yield from figure.texts
    for axes in figure.axes:
        yield from (axes._left_title, axes.xaxis.label, axes.yaxis.label)
    for legend in (*figure.legends, *(axes.get_legend() for axes in figure.axes)):
        yield from legend.get_texts() if legend is not None else ()


@pytest.mark.parametrize(("runs", "panels"), [(1, 1), (2, 5), (12, 3)])
def test_no_text_is_cut_however_long_it_is(tmp_path: Path, runs: int, panels: int) -> None:
    """All of it is inside of the picture, and no title runs into the next one."""
    names = [f"{LONG}_{number}" for number in range(panels)]
    for number in range(runs):
        rows = rows_of({name: [1.0, math.nan] for name in names})
        write_attempt(tmp_path, f"run{number:02d}", *rows, name=f"{SENTENCE}{number:02d}")
    figure: Any = make_figure(list_runs(), names)
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    shown = [(text, text.get_window_extent(renderer)) for text in texts_of(figure)]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    placed = [extent for text, extent in shown if text.get_text() in titles]
    words = {text.get_text().replace("\n", "").replace(" ", "") for text, _ in shown}

    assert [title.replace("\n", "") for title in titles] == names
    assert {f"{SENTENCE}{n:02d}".replace(" ", "") for n in range(runs)} <= words
    for text, extent in shown:
        assert figure.bbox.x0 <= extent.x0 <= extent.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= extent.y0 <= extent.y1 <= figure.bbox.y1, text
    for one, other in itertools.combinations(placed, 2):
        assert not one.overlaps(other)


@pytest.mark.parametrize("metric", ["train/lr", "eval/accuracy"])
def test_label_of_the_upright_axis_is_no_higher_than_its_panel(tmp_path: Path, metric: str) -> None:
    """In the overview it names the metric, which may have a long name."""
    long = f"{LONG}{LONG}/accuracy" if metric.startswith("eval") else metric
    write_attempt(tmp_path, "ab", *rows_of({long: [1.0, 2.0], "train/grad_norm": [1.0, 2.0]}))
    figure: Any = make_figure([find_run("ab")])
    figure.draw_without_rendering()
    axes = figure.axes[0]
    label = axes.yaxis.label

    assert label.get_text().replace("\n", "") == long
    assert label.get_window_extent().height <= axes.get_window_extent().height * 1.05


def test_long_titles_make_the_picture_higher_not_its_panels_flat(tmp_path: Path) -> None:
    """A panel is as high as ever below a title of several lines."""
    write_attempt(tmp_path, "ab", *rows_of({f"{LONG}{n}": [1.0, 2.0] for n in "abc"}))
    write_attempt(tmp_path, "cd", *rows_of({n: [1.0, 2.0] for n in "abc"}))
    heights = []
    for run_id in ("ab", "cd"):
        figure = make_figure([find_run(run_id)])
        figure.draw_without_rendering()
        heights.append(figure.axes[0].get_window_extent().height)

    assert heights[0] == pytest.approx(heights[1], rel=0.05)


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("fits", 10, ["fits"]),
        ("", 10, [""]),
        ("train/grad_norm/layer", 12, ["train/grad_", "norm/layer"]),
        ("two words", 6, ["two", "words"]),
        ("unbreakable", 4, ["unbr", "eaka", "ble"]),
        ("a/unbreakable", 5, ["a/", "unbre", "akabl", "e"]),
        ("wide", 0, ["w", "i", "d", "e"]),
    ],
)
def test_text_is_broken_between_the_words_of_a_name(
    text: str, width: int, lines: list[str]
) -> None:
    """And inside of a word only where that alone is too wide."""
    assert wrap(text, width, len) == lines


# --- lines and panels -----------------------------------------------------------------------------


def series_of(*points: tuple[int, float]) -> Series:
    """Return a series with these (step, value) points."""
    return Series(points)


def test_line_is_broken_where_steps_go_back_and_only_there() -> None:
    """A resumed run that goes on where it was has one line; one that went back has two."""
    series = series_of((0, 1.0), (1, 2.0), (1, 3.0), (0, 4.0), (1, 5.0))

    assert [str(value) for value in series.values] == ["1.0", "2.0", "3.0", "nan", "4.0", "5.0"]
    assert [str(step) for step in series.steps] == ["0.0", "1.0", "1.0", "nan", "0.0", "1.0"]
    assert series.non_finite_steps() == []


def test_values_that_are_not_finite_are_gaps_at_known_steps() -> None:
    """An infinity must not stretch the axis, and a gap alone would not say why."""
    series = series_of((0, 1.0), (1, math.inf), (2, 2.0), (3, math.nan))

    assert [str(value) for value in series.drawable()] == ["1.0", "nan", "2.0", "nan"]
    assert series.non_finite_steps() == [1, 3]


def test_few_points_and_lonely_ones_get_dots() -> None:
    """A point between two gaps has no line that would show it."""
    few = series_of((0, 1.0), (1, 2.0))
    many = series_of(*((step, math.nan if step in (49, 51) else 1.0) for step in range(100)))

    assert few.dots() == [0, 1]
    assert many.dots() == [50]


def test_rows_take_two_or_three_panels_each() -> None:
    """So that none is too small to be read."""
    layouts = {count: rows_of_panels(count) for count in range(1, 9)}

    assert layouts == {
        1: [1],
        2: [2],
        3: [3],
        4: [2, 2],
        5: [2, 3],
        6: [3, 3],
        7: [2, 2, 3],
        8: [2, 3, 3],
    }


def test_run_with_nothing_of_the_overview_is_drawn_by_its_own_metrics() -> None:
    """And with each kind of loss and accuracy where it has several."""
    assert choose(["b", "a"], []) == [Panel("a", ("a",)), Panel("b", ("b",))]
    assert choose(["b", "val/loss", "train/loss", "x/accuracy"], []) == [
        Panel("Loss", ("train/loss", "val/loss")),
        Panel("Accuracy", ("x/accuracy",)),
    ]
    assert choose(["b", "a"], ["b"]) == [Panel("b", ("b",))]


@pytest.mark.parametrize("count", [2, 8, 9, 40])
def test_every_run_has_a_color_of_its_own(count: int) -> None:
    """However many there are."""
    assert len(set(map(str, colors(count)))) == count
