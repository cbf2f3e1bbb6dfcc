"""Pictures of runs: what is in them is read back from the files that were written."""

from __future__ import annotations

import math
import re
import struct
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from support.runs import make_tracker, run_dir, run_script

from fasttrack import Options
from fasttrack.cli.app import cli
from fasttrack.journal.writer import SegmentWriter
from fasttrack.views.picture import Panel, Series, _chosen, _layout, _overview

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

image = pytest.importorskip("matplotlib.image", reason="pictures need matplotlib")

SOON = Options(finish_timeout_s=0.1)  # the rows are on disk; their delivery does not matter here
BLUE, ALARM = (0x09, 0x69, 0xDA), (0xCF, 0x22, 0x2E)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A run of two attempts, the second of which went back ten steps: (base, run id)."""
    base = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_DIR", str(base))
        run_id = None
        for first, last in (0, 50), (40, 100):
            with make_tracker(name="a_$run$", resume_id=run_id, options=SOON) as tracker:
                run_id = tracker.get_run_id()
                for step in range(first, last):
                    loss = math.nan if 60 <= step < 65 else 1 / (step + 1)
                    tracker.log_training_step(loss, step, 4, grad_norm=1.0 + step)
                    tracker.log_metrics({"x/score": step, "y": -math.inf}, step)
                tracker.log_metrics({"eval/loss": 0.5, "eval/accuracy": 0.9}, last)
        assert run_id is not None
        yield base, run_id


def invoke(base: Path, *arguments: str) -> Result:
    """Run `fasttrack plot` in this process."""
    return CliRunner().invoke(cli, ["plot", "--dir", str(base), *arguments])


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


def test_picture_is_named_after_the_run_and_is_a_png_with_lines(
    recorded: tuple[Path, str], tmp_path: Path
) -> None:
    """Without options: `<run id>.png` in the working directory, and its path on stdout."""
    base, run_id = recorded

    result = invoke(base, run_id)

    assert result.exit_code == 0, result.output
    assert result.stdout == f"{run_id}.png\n"
    picture = tmp_path / f"{run_id}.png"
    width, height = size_of(picture)
    assert width == 1600
    assert 900 < height < 1400
    assert count_pixels(picture, BLUE) > 1000
    assert count_pixels(picture, ALARM) > 20


def test_overview_names_the_run_its_panels_axes_and_lines(
    recorded: tuple[Path, str], tmp_path: Path
) -> None:
    """What the run has of the overview, with units, and the run's name taken as it stands."""
    base, run_id = recorded
    picture = tmp_path / "a.svg"

    assert invoke(base, "latest", "-o", str(picture)).exit_code == 0

    text = text_of(picture)
    assert {"a_$run$", f"vla-lego  ·  run {run_id}  ·  2 attempts"} <= set(text)
    panels = [word for word in text if word in {"Loss", "Accuracy", "Gradient norm", "Step time"}]
    assert panels == ["Loss", "Accuracy", "Gradient norm", "Step time"]
    assert "Learning rate" not in text
    assert text.count("step") == 4
    assert {"loss/total", "eval/loss", "not finite", "p50", "p99", "ms"} <= set(text)
    assert not {"x/score", "y"} & set(text)


def test_asked_for_metrics_are_drawn_exactly_a_panel_each_once(
    recorded: tuple[Path, str], tmp_path: Path
) -> None:
    """In the order of the patterns; one that matches again adds nothing."""
    base, run_id = recorded
    picture = tmp_path / "a.svg"

    result = invoke(base, run_id, "-m", "x/*", "-m", "*/loss", "-m", "x/score", "-o", str(picture))

    assert result.exit_code == 0, result.output
    text = text_of(picture)
    assert text.count("step") == 2
    assert text.index("x/score") < text.index("eval/loss")
    assert "loss/total" not in text


def test_metric_that_is_nowhere_finite_is_drawn_as_marks_only(
    recorded: tuple[Path, str], tmp_path: Path
) -> None:
    """A run that diverged at once must be drawn too."""
    base, run_id = recorded
    picture = tmp_path / "a.png"

    assert invoke(base, run_id, "-m", "y", "-o", str(picture)).exit_code == 0

    assert count_pixels(picture, ALARM) > 100


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["-m", "loss/*", "-m", "nothing"],
            "the run has no metric 'nothing'; it has: eval/accuracy, eval/loss, fasttrack/",
        ),
        (["-o", "absent/a.png"], "cannot write the picture absent/a.png: "),
        (["-o", "a.xyz"], "cannot write the picture a.xyz: Format 'xyz' is not supported"),
    ],
)
def test_what_cannot_be_drawn_is_one_line_on_stderr(
    recorded: tuple[Path, str], arguments: list[str], said: str
) -> None:
    """With exit code 1, and no traceback."""
    base, run_id = recorded

    result = invoke(base, run_id, *arguments)

    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"fasttrack: {said}")
    assert result.stderr.count("\n") == 1


def test_run_without_rows_says_so(tmp_path: Path) -> None:
    """A run that has only begun is no error of the journal's."""
    SegmentWriter(run_dir(tmp_path, "empty"), {"run_id": "empty"}).close()

    result = invoke(tmp_path, "empty")

    assert result.exit_code == 1
    assert result.stderr == "fasttrack: the run has no metrics yet\n"


def test_missing_matplotlib_is_one_line_that_names_the_extra(recorded: tuple[Path, str]) -> None:
    """And drawing needs neither torch nor wandb."""
    base, run_id = recorded
    source = """
        import sys
        from fasttrack.cli import main

        sys.modules["matplotlib"] = None
        sys.argv[1:] = ["plot", sys.argv[2], "--dir", sys.argv[1]]
        try:
            main()
        finally:
            assert not {"torch", "wandb", "numpy"} & set(sys.modules)
    """

    result = run_script(source, str(base), run_id, check=False)

    assert result.returncode == 1
    assert "pip install 'fasttrack[examples]'" in result.stderr
    assert result.stderr.count("\n") == 1


def series_of(*points: tuple[int, float]) -> Series:
    """Return a series with these (step, value) points."""
    series = Series()
    for step, value in points:
        series.add(step, value)
    return series


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
    layouts = {count: _layout(count) for count in range(1, 9)}

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
    other: dict[str, Any] = dict.fromkeys(["b", "a"], Series())
    known: dict[str, Any] = dict.fromkeys(["b", "val/loss", "train/loss", "x/accuracy"], Series())

    assert _overview(other) == [Panel("a", ("a",)), Panel("b", ("b",))]
    assert _overview(known) == [
        Panel("Loss", ("train/loss", "val/loss")),
        Panel("Accuracy", ("x/accuracy",)),
    ]
    assert _chosen(other, ["b"]) == [Panel("b", ("b",))]
