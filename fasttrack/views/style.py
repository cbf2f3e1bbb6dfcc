"""How pictures look: colors, sizes, units."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

STEP_TIME = "perf/step_time_ms/"
_UNITS = {
    "*_ms": "ms",
    "*_ms/*": "ms",
    "*_s": "s",
    "*_gb": "GiB",
    "*_w": "W",
    "*_us_*": "µs",
    "*_pct": "%",
    "*_pct/*": "%",
    "*/steps_per_sec": "steps/s",
    "*/samples_per_sec": "samples/s",
    "*/tokens_per_sec": "tokens/s",
    "perf/tflops": "TFLOP/s",
    "perf/mfu": "%",
    "gpu/utilization": "%",
    "gpu/temperature": "°C",
}
COLORS = ("#0969da", "#e36209", "#1a7f37", "#8250df", "#bf3989", "#0a7c8c", "#9a6700", "#57606a")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
"""Line styles that tell metrics apart where the colors tell runs apart."""
INK, FAINT, ALARM = "#24292f", "#6e7781", "#cf222e"
STYLE: dict[Any, Any] = {
    "agg.path.chunksize": 200,  # a long noisy line takes half the time in short pieces
    "axes.axisbelow": True,
    "axes.edgecolor": "#b6bdc5",
    "axes.grid": True,
    "axes.labelcolor": FAINT,
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
    "text.color": INK,
    "xtick.color": FAINT,
    "xtick.labelsize": 8.5,
    "xtick.major.size": 0,
    "ytick.color": FAINT,
    "ytick.labelsize": 8.5,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}


def unit_of(metric: str) -> str:
    """Return the unit of a metric's values, "" where its name does not tell it."""
    return next((unit for glob, unit in _UNITS.items() if fnmatchcase(metric, glob)), "")


def colors(count: int) -> list[Any]:
    """Return `count` colors that can be told apart, as far as there are so many."""
    if count <= len(COLORS):
        return list(COLORS[:count])
    import matplotlib as mpl

    return [mpl.colormaps["turbo"](0.05 + 0.9 * i / (count - 1)) for i in range(count)]
