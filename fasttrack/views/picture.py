"""Draw the metrics of a run, or of several over each other, as small multiples.

matplotlib is loaded when something is drawn: it comes with the extra `examples`.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fasttrack.errors import FasttrackError
from fasttrack.runs.patterns import matching, require_matches
from fasttrack.views.fitting import fit
from fasttrack.views.panel import OVERVIEW_PATTERNS, Course, choose, draw_panel, letter_panel
from fasttrack.views.style import FAINT, STYLE, colors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from matplotlib.backend_bases import RendererBase
    from matplotlib.figure import Figure

    from fasttrack.runs.local import LocalRun
    from fasttrack.views.panel import DrawnPanel, Panel
    from fasttrack.views.series import Series

_WIDTH_INCHES, _ROW_INCHES = 8.0, 2.4
_DPI = 200  # 1600 pixels wide: sharp where 800 are shown
_PADS_INCHES = {"w_pad": 0.1, "h_pad": 0.1, "wspace": 0.0, "hspace": 0.0}
_LEFT, _WIDE = 0.015, 0.97  # where the head begins, and its share of the picture's width
_ABOVE_INCHES, _BETWEEN_INCHES, _BELOW_INCHES = 0.12, 0.1, 0.14  # of the head's two texts
_TITLE_POINTS, _SMALLEST_TITLE = 12.5, 9.0
_DETAILS_POINTS, _SMALLEST_DETAILS = 9.0, 7.0
_MOST_COLUMNS = 8  # of a legend
_HANDLE_INCHES = 0.4  # what a legend's line takes beside its name


def draw(runs: Sequence[LocalRun], path: Path, *, metrics: Sequence[str] = ()) -> None:
    """Write a picture of `runs`; its format is the one that `path` ends in.

    Args:
        runs: what to draw; several are drawn over each other in each panel, a color each.
        path: the file to write.
        metrics: the metrics to draw, a panel each, wildcards as in file names; none: an overview
            of loss, accuracy, learning rate, gradient norm and step time.

    Raises:
        FasttrackError: matplotlib is missing, the runs have no such metric, one cannot be read, or
            `path` cannot be written.
    """
    figure = make_figure(runs, metrics)
    try:
        with _style():
            figure.savefig(path, dpi=_DPI, facecolor="white")
    except (OSError, ValueError) as error:  # ValueError: a format that matplotlib lacks
        raise FasttrackError(f"cannot write the picture {path}: {error}") from error


def make_figure(runs: Sequence[LocalRun], metrics: Sequence[str] = ()) -> Figure:
    """Return what `draw` writes; arguments and errors are the same."""
    found = _read_while_loading(runs, metrics)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = set().union(*found)
    shades = colors(len(runs)) if len(runs) > 1 else [None]
    courses = [Course(series, shade) for series, shade in zip(found, shades, strict=True)]
    with _style():
        figure = Figure(dpi=_DPI)
        renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
        body_inches = _add_body(figure, choose(names, metrics), courses, renderer)
        _add_head(figure, runs, shades, body_inches, renderer)
    return figure


def _read_while_loading(
    runs: Sequence[LocalRun], metrics: Sequence[str]
) -> list[dict[str, Series]]:
    """Return each run's lines, and have matplotlib loaded: half a second, for long runs no longer.

    Raises:
        FasttrackError: as `draw`.
    """
    if find_spec("matplotlib") is None:
        require_matplotlib()  # says so before anything is read
    import numpy as np  # noqa: F401 - both need it: no module is to be loaded by two threads

    with ThreadPoolExecutor(1, "fasttrack-matplotlib") as pool:
        loading = pool.submit(require_matplotlib)
        found = _read(runs, metrics)
        loading.result()
    return found


def _read(runs: Sequence[LocalRun], metrics: Sequence[str]) -> list[dict[str, Series]]:
    """Return each run's lines, as far as they are drawn."""
    from fasttrack.views.curves import read_curves  # with numpy, as matplotlib has it

    found = read_curves(runs, metrics or OVERVIEW_PATTERNS)
    if not metrics and not any(found):  # nothing of the overview: then of all that is there
        found = read_curves(runs)
    names = set().union(*found)
    if not names or not all(matching(names, [pattern]) for pattern in metrics):
        names = {name for run in runs for name in run.metrics()}
        require_matches(names, metrics, several_runs=len(runs) > 1)
    return found


def _style() -> AbstractContextManager[None]:
    """Return a context in which matplotlib draws as we do, whatever the user has set."""
    import matplotlib as mpl

    return mpl.rc_context({**mpl.rcParamsDefault, **STYLE})


def require_matplotlib() -> None:
    """Load matplotlib.

    Raises:
        FasttrackError: it is not installed; the message says how to install it.
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)  # where it keeps its caches is nothing to bother users with
    try:
        import matplotlib.figure  # noqa: F401 - looks whether it is there
    except ImportError as error:
        raise FasttrackError(
            f"drawing needs matplotlib: pip install 'fasttrack[examples]' ({error})"
        ) from error
    finally:
        logger.setLevel(level)


def rows_of_panels(panels: int) -> list[int]:
    """Return how many panels each row takes: two or three, the wider ones first."""
    if panels <= 2:
        return [panels]
    rows = math.ceil(panels / 3)
    return [panels // rows + (row >= rows - panels % rows) for row in range(rows)]


def _add_head(
    figure: Figure,
    runs: Sequence[LocalRun],
    shades: Sequence[Any],
    body_inches: float,
    renderer: RendererBase,
) -> None:
    """Write what is drawn above the panels, and give the picture its size."""
    width = _WIDTH_INCHES * _DPI * _WIDE
    title = figure.text(_LEFT, 1.0, _title(runs), size=_TITLE_POINTS, weight="bold", va="top")
    title.set_parse_math(False)
    fit(title, width, renderer, smallest=_SMALLEST_TITLE)
    if len(runs) > 1:
        details: Any = _legend_of_runs(figure, runs, shades, renderer)
    else:
        text = _details(runs[0])
        details = figure.text(_LEFT, 1.0, text, size=_DETAILS_POINTS, color=FAINT, va="top")
        details.set_parse_math(False)
        fit(details, width, renderer, smallest=_SMALLEST_DETAILS)
    title_end = _ABOVE_INCHES + title.get_window_extent(renderer).height / _DPI
    details_start = title_end + _BETWEEN_INCHES
    head = details_start + details.get_window_extent(renderer).height / _DPI + _BELOW_INCHES
    height = head + body_inches
    figure.set_size_inches(_WIDTH_INCHES, height)
    title.set_y(1 - _ABOVE_INCHES / height)
    if len(runs) > 1:
        details.set_bbox_to_anchor((_LEFT, 1 - details_start / height), figure.transFigure)
    else:
        details.set_y(1 - details_start / height)
    body = (0, 0, 1, 1 - head / height)
    figure.set_layout_engine("constrained", rect=body, **_PADS_INCHES)


def _title(runs: Sequence[LocalRun]) -> str:
    if len(runs) == 1:
        return runs[0].name or runs[0].run_id
    projects = dict.fromkeys(run.project for run in runs if run.project is not None)
    return "  ·  ".join([*projects, f"{len(runs)} runs"])


def _details(run: LocalRun) -> str:
    attempts = len(run.headers)
    words = [run.project, f"run {run.run_id}", f"{attempts} attempts" if attempts > 1 else None]
    return "  ·  ".join(filter(None, words))


def _legend_of_runs(
    figure: Figure, runs: Sequence[LocalRun], shades: Sequence[Any], renderer: RendererBase
) -> Any:
    """Return a legend of the runs, in as many columns as find room."""
    from matplotlib.lines import Line2D

    named = Counter(run.name for run in runs)
    labels = [
        run.name if run.name is not None and named[run.name] == 1 else _with_id(run) for run in runs
    ]
    handles = [Line2D([], [], color=shade, linewidth=2) for shade in shades]
    width = _WIDTH_INCHES * _DPI * _WIDE

    def make(columns: int) -> Any:
        legend = figure.legend(
            handles, labels, loc="upper left", ncols=columns, frameon=False, borderpad=0.0
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
        return legend

    single = make(1)
    narrowest = min(text.get_window_extent(renderer).width for text in single.get_texts())
    most = min(len(runs), _MOST_COLUMNS, int(width / max(narrowest, 1.0)))
    for columns in range(most, 1, -1):
        legend = make(columns)
        if legend.get_window_extent(renderer).width <= width:
            single.remove()
            return legend
        legend.remove()
    for text in single.get_texts():
        fit(text, width - _HANDLE_INCHES * _DPI, renderer, smallest=_SMALLEST_DETAILS)
    return single


def _with_id(run: LocalRun) -> str:
    return run.run_id if run.name is None else f"{run.name} ({run.run_id})"


def _add_body(
    figure: Figure, panels: Sequence[Panel], courses: Sequence[Course], renderer: RendererBase
) -> float:
    """Draw the panels, on a picture of their own for now; return the height that they need."""
    layout = rows_of_panels(len(panels))
    height = _ROW_INCHES * len(layout)
    figure.set_size_inches(_WIDTH_INCHES, height)
    figure.set_layout_engine("constrained", **_PADS_INCHES)
    waiting = iter(_add_panels(figure, panels, layout, courses))
    figure.draw_without_rendering()  # gives the panels their places
    for count in layout:
        row = itertools.islice(waiting, count)
        height += max(letter_panel(panel, courses, renderer) for panel in row) / _DPI
    return height


def _add_panels(
    figure: Figure, panels: Sequence[Panel], layout: Sequence[int], courses: Sequence[Course]
) -> list[DrawnPanel]:
    grid = figure.add_gridspec(len(layout), 6)
    steps = [
        step
        for panel in panels
        for name in panel.metrics
        for course in courses
        if name in course.series
        for step in course.series[name].span()
    ]
    first, last = min(steps), max(steps)
    margin = (last - first) * 0.02 or 1
    drawn: list[DrawnPanel] = []
    for row, count in enumerate(layout):
        width = 6 // count
        for column in range(count):
            axes = figure.add_subplot(grid[row, column * width : (column + 1) * width])
            drawn.append(draw_panel(axes, panels[len(drawn)], courses))
            axes.set_xlim(first - margin, last + margin)
    return drawn
