"""The two pictures of `python -m bench`: legible when shown 800 pixels wide."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from bench.compare.rounds import BASELINE, DESCRIPTIONS
from bench.lib.measure import TAILS

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from bench.compare.rounds import Result

_WIDTH_INCHES = 8.0
_DOTS_PER_INCH = 200
_OWN, _OTHER, _PLAIN = "#1a6e3c", "#8fa3b8", "#222222"
_CURVES = (
    (BASELINE, _PLAIN, "--"),
    ("fasttrack", _OWN, "-"),
    ("fasttrack-default", "#6cc08b", "-"),
    ("trackio", "#c9a227", "-"),
    ("tensorboard", "#d9772b", "-"),
    ("wandb", "#b5342b", "-"),
    ("wandb-thread", "#b5342b", ":"),
    ("mlflow", "#3a6ea5", "-"),
)
"""Which ways' step times are drawn: more would cover each other."""
_TICKS = (0.2, 0.5, 0.8, 1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100)


def _axes(height_inches: float, title: str, subtitle: str) -> tuple[Any, Axes]:
    # No pyplot: it would choose a backend, and there may be no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(_WIDTH_INCHES, height_inches), dpi=_DOTS_PER_INCH, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    figure.suptitle(title, fontsize=13, fontweight="bold")
    axes.set_title(subtitle, fontsize=9.5, color="#555555")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _subtitle(result: Result) -> str:
    return f"{result.scenario.title()}; rounds: {result.scenario.rounds}"


def draw_slowdown(result: Result, path: Path) -> None:
    """Draw how much longer each way makes the loop: medians, lowest and highest rounds."""
    compared = [key for key in result.measured() if key != BASELINE]
    ratios = {key: result.ratios(key, "mean_step_ms") for key in compared}
    keys = sorted(ratios, key=lambda key: statistics.median(ratios[key]), reverse=True)
    figure, axes = _axes(
        1.3 + 0.32 * len(keys), "How much longer the training loop takes", _subtitle(result)
    )
    for place, key in enumerate(keys):
        low, middle, high = min(ratios[key]), statistics.median(ratios[key]), max(ratios[key])
        color = _OWN if key.startswith("fasttrack") else _OTHER
        axes.barh(place, middle - 1, left=1, color=color, height=0.62)
        axes.plot([low, high], [place, place], color=_PLAIN, linewidth=1.2)
        axes.annotate(
            f"{middle:.2f}",
            (max(high, 1), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.axvline(1, color=_PLAIN, linewidth=1)
    axes.set_xscale("log")
    lowest = min((min(values) for values in ratios.values()), default=1.0)
    highest = max((max(values) for values in ratios.values()), default=1.0)
    limits = min(0.95, lowest * 0.97), highest * 1.25
    axes.set_xlim(*limits)
    ticks = [tick for tick in _TICKS if limits[0] <= tick <= limits[1]]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(keys)), [_label(key) for key in keys], fontsize=9)
    axes.set_xlabel("loop time / no logging (log scale); line: lowest to highest round", fontsize=9)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.savefig(path)


def draw_steps(result: Result, path: Path) -> None:
    """Draw the share of steps that take longer than a time; medians over the rounds."""
    from matplotlib.ticker import LogLocator

    figure, axes = _axes(5.4, "How long single training steps take", _subtitle(result))
    measured = result.measured()
    for key, color, style in _CURVES:
        if key not in measured:
            continue
        rounds = [own["step_tail_ms"] for own, _ in result.pairs(key)]
        times = [statistics.median(values) for values in zip(*rounds, strict=False)]
        shares = TAILS[: len(times)]
        axes.plot(times, shares, style, color=color, linewidth=1.8, label=_label(key))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.4g}")
    axes.set_xlabel("step time, logging included, ms (log scale)", fontsize=9)
    axes.set_ylabel("share of steps that take longer (log scale)", fontsize=9)
    axes.grid(which="both", color="#e4e4e4", linewidth=0.6)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    figure.savefig(path)


def _label(key: str) -> str:
    return DESCRIPTIONS[key].replace("`", "")
