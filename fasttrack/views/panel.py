"""One chart of a picture: some metrics of one run or of several over their steps."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fasttrack.runs.patterns import matching
from fasttrack.views.fitting import fit
from fasttrack.views.style import ALARM, COLORS, DASHES, INK, STEP_TIME, unit_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

    from fasttrack.views.series import Series

_OVERVIEW = {
    "Loss": ("loss/total", "*/loss"),
    "Accuracy": ("eval/accuracy", "*/accuracy"),
    "Learning rate": ("train/lr",),
    "Gradient norm": ("train/grad_norm",),
    "Step time": (f"{STEP_TIME}p50", f"{STEP_TIME}p99"),
}
"""The panels drawn where no metric is asked for, as far as the run has them."""
OVERVIEW_PATTERNS = tuple(pattern for globs in _OVERVIEW.values() for pattern in globs)
"""The metrics of these."""
_MOST_PANELS = 12  # of a run that has nothing of the overview
_MANY_POINTS = 150  # from here on the line is thin
_PLAIN_FROM, _PLAIN_BELOW = 1e-4, 1e6  # values beyond are written as 2e-05
_LOG_SCALE_FROM = 20.0  # a time that is so much longer than another would flatten the rest
_SMALLEST_TITLE, _SMALLEST_LABEL = 8.5, 6.5  # points
_CROSS_POINTS = 4  # of a mark where a value is not finite
_SHORT = "x"  # stands for texts until it is known what fits
_BEYOND = 1.02  # where a legend beside the title ends, in the panel's width: it has a margin
_INSIDE = 0.6  # how much of a panel's width the names in a legend inside of it may take


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart: a title and the metrics in it."""

    title: str
    metrics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Course:
    """One run's lines."""

    series: dict[str, Series]
    color: Any
    """Of all its lines; None: each metric has one of its own."""


@dataclass(frozen=True, slots=True)
class DrawnPanel:
    """A panel that is not lettered yet: its title and label are short ones in their places."""

    panel: Panel
    axes: Axes
    title: Text
    label: str
    """Of the upright axis."""
    marked: bool
    """Whether it marks steps whose value is not finite."""


def choose(names: Collection[str], patterns: Sequence[str]) -> list[Panel]:
    """Return the panels to draw of a run with these metrics: what was asked for, or an overview."""
    if patterns:
        return [Panel(name, (name,)) for name in matching(names, patterns)]
    found = [Panel(title, tuple(matching(names, globs))) for title, globs in _OVERVIEW.items()]
    panels = [panel for panel in found if panel.metrics]
    return panels or [Panel(name, (name,)) for name in sorted(names)[:_MOST_PANELS]]


def draw_panel(axes: Axes, panel: Panel, courses: Sequence[Course]) -> DrawnPanel:
    """Draw one panel, but for its texts and its legend."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    unit = unit_of(panel.metrics[0])
    named = len(panel.metrics) > 1 or panel.title == panel.metrics[0]  # by the legend or the title
    label = unit if named else panel.metrics[0]
    title = axes.set_title(_SHORT, loc="left", parse_math=False)
    axes.set_ylabel(_SHORT if label else "", parse_math=False)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 200k: 200,000 would be too wide
    finite: list[float] = []
    bad: set[float] = set()
    for course in courses:
        styles = zip(panel.metrics, itertools.cycle(COLORS), itertools.cycle(DASHES), strict=False)
        for name, color, dashes in styles:
            if name not in course.series:
                continue
            series = course.series[name]
            _draw_line(axes, series, course.color or color, dashes if course.color else "-")
            finite += series.range()
            bad.update(series.non_finite_steps())
    _scale(axes, finite, unit)
    if bad:
        axes.plot(
            sorted(bad),
            [0.04] * len(bad),
            transform=axes.get_xaxis_transform(),  # just above the ground, whatever the values
            color=ALARM,
            marker="x",
            markersize=_CROSS_POINTS,
            linestyle="",
        )
    return DrawnPanel(panel, axes, title, label, bool(bad))


def _draw_line(axes: Axes, series: Series, color: Any, dashes: Any) -> None:
    axes.plot(
        series.steps,
        series.drawable(),
        color=color,
        linestyle=dashes,
        linewidth=1.5 if len(series.values) < _MANY_POINTS else 1.0,
        marker="o",
        markevery=series.dots(),
    )


def _scale(axes: Axes, finite: list[float], unit: str) -> None:
    """Choose the scale and the numbers at the upright axis."""
    if unit == "ms" and finite and 0 < _LOG_SCALE_FROM * min(finite) < max(finite):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    elif finite and _PLAIN_FROM <= max(map(abs, finite)) < _PLAIN_BELOW:
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    else:
        axes.yaxis.set_major_formatter("{x:g}")


def letter_panel(drawn: DrawnPanel, courses: Sequence[Course], renderer: RendererBase) -> float:
    """Write a panel's texts, once it has its place, so that they fit; add a legend if it needs one.

    Returns:
        How many pixels the title is higher than one of a single line.
    """
    axes, title = drawn.axes, drawn.title
    extent = axes.get_window_extent(renderer)
    low = title.get_window_extent(renderer).height
    title.set_text(drawn.panel.title)
    fit(title, extent.width, renderer, smallest=_SMALLEST_TITLE)
    axes.yaxis.label.set_text(drawn.label)
    fit(axes.yaxis.label, extent.height, renderer, smallest=_SMALLEST_LABEL, vertical=True)
    _add_legend(drawn, courses, renderer, extent.width)
    return float(max(0.0, title.get_window_extent(renderer).height - low))


def _add_legend(
    drawn: DrawnPanel, courses: Sequence[Course], renderer: RendererBase, width: float
) -> None:
    """Put a legend beside the title, where it hides nothing, or inside if it is too long."""
    handles = _handles(drawn, of_runs=any(course.color for course in courses))
    if not handles:
        return
    legend = drawn.axes.legend(
        list(handles.values()),
        list(handles),
        loc="lower right",
        bbox_to_anchor=(_BEYOND, 1.0),
        ncols=len(handles),
    )
    room = width * _BEYOND - drawn.title.get_window_extent(renderer).width
    inside = legend.get_window_extent(renderer).width > room
    if inside:
        legend = drawn.axes.legend(list(handles.values()), list(handles))
    for text in legend.get_texts():
        text.set_parse_math(False)
        if inside:
            fit(text, width * _INSIDE, renderer, smallest=_SMALLEST_LABEL)


def _handles(drawn: DrawnPanel, *, of_runs: bool) -> dict[str, Line2D]:
    """Return what the panel's legend explains: its metrics if there are several, and the marks."""
    from matplotlib.lines import Line2D

    metrics = drawn.panel.metrics
    handles = {}
    if len(metrics) > 1:
        styles = zip(metrics, itertools.cycle(COLORS), itertools.cycle(DASHES), strict=False)
        for name, color, dashes in styles:
            handles[name.removeprefix(STEP_TIME)] = (
                Line2D([], [], color=INK, linestyle=dashes)
                if of_runs
                else Line2D([], [], color=color)
            )
    if drawn.marked:
        handles["not finite"] = Line2D(
            [], [], linestyle="", color=ALARM, marker="x", markersize=_CROSS_POINTS
        )
    return handles
