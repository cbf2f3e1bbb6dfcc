"""Draw a run's metrics as small multiples, from the rows of its journal.

matplotlib is loaded when something is drawn: it comes with the extra `examples`.
"""

from __future__ import annotations

import itertools
import math
from array import array
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from fasttrack.errors import FasttrackError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STEP_TIME = "perf/step_time_ms/"
_OVERVIEW = {
    "Loss": ("loss/total", "*/loss"),
    "Accuracy": ("eval/accuracy", "*/accuracy"),
    "Learning rate": ("train/lr",),
    "Gradient norm": ("train/grad_norm",),
    "Step time": (f"{_STEP_TIME}p50", f"{_STEP_TIME}p99"),
}
"""The panels drawn where no metric is asked for, as far as the run has them."""
_MOST_PANELS = 12  # of a run that has nothing of the overview
_UNITS = {
    "*_ms": "ms",
    "*_ms/*": "ms",
    "*_s": "s",
    "*_gb": "GiB",
    "*_w": "W",
    "*_us_*": "µs",
    "*_pct": "%",
    "*/steps_per_sec": "steps/s",
    "*/samples_per_sec": "samples/s",
    "gpu/utilization": "%",
    "gpu/temperature": "°C",
}
_WIDTH_INCHES, _HEAD_INCHES, _ROW_INCHES = 8.0, 0.68, 2.4
_DPI = 200  # 1600 pixels wide: sharp where 800 are shown
_PADS_INCHES = {"w_pad": 0.1, "h_pad": 0.1, "wspace": 0.0, "hspace": 0.0}
_TITLE_POINTS, _TITLE_FITS = 12.5, 68  # a title of more letters is written smaller
_LEGEND_LETTERS = 114  # how many of a legend's letters would fill the picture's width
_FEW_POINTS = 30  # up to here every value gets a dot
_MANY_POINTS = 150  # from here on the line is thin
_PLAIN_FROM, _PLAIN_BELOW = 1e-4, 1e6  # values beyond are written as 2e-05
_LOG_SCALE_FROM = 20.0  # a time that is so much longer than another would flatten the rest
_COLORS = ("#0969da", "#e36209", "#1a7f37", "#8250df", "#bf3989", "#0a7c8c", "#9a6700", "#57606a")
_INK, _FAINT, _ALARM = "#24292f", "#6e7781", "#cf222e"
_STYLE: dict[Any, Any] = {
    "agg.path.chunksize": 10_000,  # a long noisy line is too much for the renderer in one piece
    "axes.axisbelow": True,
    "axes.edgecolor": "#b6bdc5",
    "axes.grid": True,
    "axes.labelcolor": _FAINT,
    "axes.labelsize": 8.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "grid.color": "#e4e8ec",
    "legend.borderaxespad": 0.0,
    "legend.columnspacing": 1.2,
    "legend.fontsize": 8.5,
    "legend.edgecolor": "none",
    "legend.handlelength": 1.2,
    "legend.handletextpad": 0.5,
    "lines.markersize": 2.8,
    "text.color": _INK,
    "xtick.color": _FAINT,
    "xtick.labelsize": 8.5,
    "xtick.major.size": 0,
    "ytick.color": _FAINT,
    "ytick.labelsize": 8.5,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}


@dataclass(frozen=True)
class Panel:
    """One chart: a title and the metrics in it."""

    title: str
    metrics: tuple[str, ...]


@dataclass
class Series:
    """One metric over the steps, in the order in which it was logged."""

    steps: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def add(self, step: int, value: float) -> None:
        """Add a point; where the steps go back, as after a resume, the line is broken."""
        if self.steps and step < self.steps[-1]:
            self.steps.append(math.nan)
            self.values.append(math.nan)
        self.steps.append(step)
        self.values.append(value)

    def drawable(self) -> list[float]:
        """Return the values with a gap for each that is NaN or infinite."""
        return [value if math.isfinite(value) else math.nan for value in self.values]

    def non_finite_steps(self) -> list[float]:
        """Return the steps whose value is NaN or infinite."""
        points = zip(self.steps, self.values, strict=True)
        return [step for step, value in points if step == step and not math.isfinite(value)]

    def dots(self) -> list[int]:
        """Return the indices to be marked by a dot: all of a few points, else the lonely ones."""
        solid = [False, *map(math.isfinite, self.values), False]
        few = sum(solid) <= _FEW_POINTS
        places = zip(solid, solid[1:], solid[2:], strict=False)
        return [i for i, (a, here, b) in enumerate(places) if here and (few or not (a or b))]


def draw(
    rows: Iterable[Mapping[str, Any]],
    path: Path,
    *,
    title: str,
    details: str,
    metrics: Sequence[str] = (),
) -> None:
    """Write a picture of a run's rows; its format is the one that `path` ends in.

    Args:
        rows: the run's rows in the order of the journal, each with `step` and `values`.
        path: the file to write.
        title: the headline.
        details: a smaller line below it.
        metrics: the metrics to draw, a panel each, wildcards as in file names; none: an overview
            of loss, accuracy, learning rate, gradient norm and step time.

    Raises:
        FasttrackError: matplotlib is missing, the run has no such metric, or `path` cannot be
            written.
    """
    require_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    series = _series(rows)
    panels = _chosen(series, metrics) if metrics else _overview(series)
    layout = _layout(len(panels))
    height = _HEAD_INCHES + _ROW_INCHES * len(layout)
    body = (0, 0, 1, 1 - _HEAD_INCHES / height)
    with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE}):
        figure = Figure(figsize=(_WIDTH_INCHES, height))
        figure.set_layout_engine("constrained", rect=body, **_PADS_INCHES)
        place: dict[str, Any] = {"x": 0.015, "va": "top", "parse_math": False}
        size = min(_TITLE_POINTS, _TITLE_POINTS * _TITLE_FITS / len(title))
        figure.text(y=1 - 0.12 / height, s=title, size=size, weight="bold", **place)
        figure.text(y=1 - 0.42 / height, s=details, size=9, color=_FAINT, **place)
        _add_panels(figure, panels, layout, series)
        try:
            figure.savefig(path, dpi=_DPI, facecolor="white")
        except (OSError, ValueError) as error:  # ValueError: a format that matplotlib lacks
            raise FasttrackError(f"cannot write the picture {path}: {error}") from error


def require_matplotlib() -> None:
    """Load matplotlib.

    Raises:
        FasttrackError: it is not installed; the message says how to install it.
    """
    try:
        import matplotlib.figure  # noqa: F401 - looks whether it is there
    except ImportError as error:
        raise FasttrackError(
            f"drawing needs matplotlib: pip install 'fasttrack[examples]' ({error})"
        ) from error


def _series(rows: Iterable[Mapping[str, Any]]) -> dict[str, Series]:
    series: dict[str, Series] = {}
    for row in rows:
        for name, value in row["values"].items():
            series.setdefault(name, Series()).add(row["step"], float(value))
    if not series:
        raise FasttrackError("the run has no metrics yet")
    return series


def _overview(series: dict[str, Series]) -> list[Panel]:
    found = [Panel(title, _matching(series, globs)) for title, globs in _OVERVIEW.items()]
    panels = [panel for panel in found if panel.metrics]
    return panels or [Panel(name, (name,)) for name in sorted(series)[:_MOST_PANELS]]


def _chosen(series: dict[str, Series], globs: Sequence[str]) -> list[Panel]:
    for glob in globs:
        if not _matching(series, [glob]):
            names = ", ".join(sorted(series))
            raise FasttrackError(f"the run has no metric {glob!r}; it has: {names}")
    return [Panel(name, (name,)) for name in _matching(series, globs)]


def _matching(series: dict[str, Series], globs: Sequence[str]) -> tuple[str, ...]:
    found = [name for glob in globs for name in sorted(series) if fnmatchcase(name, glob)]
    return tuple(dict.fromkeys(found))


def _layout(panels: int) -> list[int]:
    """Return how many panels each row takes: two or three, the wider ones first."""
    if panels <= 2:
        return [panels]
    rows = math.ceil(panels / 3)
    return [panels // rows + (row >= rows - panels % rows) for row in range(rows)]


def _add_panels(
    figure: Figure, panels: list[Panel], layout: list[int], series: dict[str, Series]
) -> None:
    grid = figure.add_gridspec(len(layout), 6)
    names = itertools.chain.from_iterable(panel.metrics for panel in panels)
    steps = [step for name in names for step in series[name].steps if step == step]
    first, last = min(steps), max(steps)
    margin = (last - first) * 0.02 or 1
    waiting = iter(panels)
    for row, count in enumerate(layout):
        width = 6 // count
        for column in range(count):
            axes = figure.add_subplot(grid[row, column * width : (column + 1) * width])
            _draw_panel(axes, next(waiting), series, _LEGEND_LETTERS / count - 11)
            axes.set_xlim(first - margin, last + margin)


def _draw_panel(axes: Axes, panel: Panel, series: dict[str, Series], letters: float) -> None:
    """Draw one panel, above which there is room for so many letters of a legend."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    unit = next((unit for glob, unit in _UNITS.items() if fnmatchcase(panel.metrics[0], glob)), "")
    named = len(panel.metrics) > 1 or panel.title == panel.metrics[0]  # by the legend or the title
    axes.set_title(panel.title, loc="left", parse_math=False)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 200k: 200,000 would be too wide
    axes.set_ylabel(unit if named else panel.metrics[0], parse_math=False)
    finite: list[float] = []
    bad: set[float] = set()
    for name, color in zip(panel.metrics, itertools.cycle(_COLORS), strict=False):
        line = series[name]
        axes.plot(
            line.steps,
            line.drawable(),
            color=color,
            linewidth=1.5 if len(line.values) < _MANY_POINTS else 1.0,
            marker="o",
            markevery=line.dots(),
            label=name.removeprefix(_STEP_TIME),
        )
        finite += filter(math.isfinite, line.values)
        bad.update(line.non_finite_steps())
    if unit == "ms" and finite and 0 < _LOG_SCALE_FROM * min(finite) < max(finite):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    elif finite and _PLAIN_FROM <= max(map(abs, finite)) < _PLAIN_BELOW:
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    else:
        axes.yaxis.set_major_formatter("{x:g}")
    if bad:
        ground: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "linestyle": ""}
        cross: dict[str, Any] = {"color": _ALARM, "marker": "x", "markersize": 4}
        axes.plot(sorted(bad), [0.04] * len(bad), label="not finite", **cross, **ground)
    if len(panel.metrics) > 1 or bad:
        _add_legend(axes, letters - 1.2 * len(panel.title))


def _add_legend(axes: Axes, letters: float) -> None:
    """Put the legend beside the title, where it hides nothing, or inside if it is too long."""
    names = axes.get_legend_handles_labels()[1]
    handle = 4.4  # letters that a handle is wide, with its spaces
    place: dict[str, Any] = {}
    if sum(len(name) + handle for name in names) <= letters:
        place = {"loc": "lower right", "bbox_to_anchor": (1.02, 1.0), "ncols": len(names)}
    for text in axes.legend(**place).get_texts():
        text.set_parse_math(False)
