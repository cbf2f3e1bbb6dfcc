"""`python -m bench.alerts`: false alarms on healthy curves, spikes that are seen, cost per row.

python -m bench.alerts --curves 1000   # some ten minutes on one core
python -m bench.alerts --rows 200000
"""

from __future__ import annotations

import argparse
import math
import random
import time
from typing import TYPE_CHECKING

from bench.alerts.curves import curve, recipe_of
from fasttrack.alerts.judge import Judge
from fasttrack.alerts.settings import AlertSettings
from fasttrack.journal.rows import Row, encode_row
from fasttrack.journal.shapes import RowShapes

if TYPE_CHECKING:
    from bench.alerts.curves import Point
    from fasttrack.alerts.judge import Finding

_SPIKE_STEPS = 20
_SEEN_WITHIN = 10  # rows
_METRICS = 10  # of a row, one of them a loss


def judge(points: list[Point], settings: AlertSettings | None = None) -> list[Finding]:
    """Return what the alerts of a run with these rows are, by default settings."""
    watch = Judge(settings or AlertSettings())
    watch.begin(1)
    rows = [Row(seq, p.step, 1e9 + seq * 0.01, p.values) for seq, p in enumerate(points)]
    found = watch.see(rows)
    return found + watch.end(0, 1e9, preempting=False)


def spiked(points: list[Point], seed: int) -> tuple[list[Point], int]:
    """Return the run with a spike in its second half, back to where it began, and at which step."""
    start = sum(p.values["loss/total"] for p in points[:10]) / 10
    at = random.Random(seed).randrange(len(points) // 2, len(points) - _SPIKE_STEPS)
    changed = [
        p._replace(values={**p.values, "loss/total": p.values["loss/total"] + start})
        if at <= place < at + _SPIKE_STEPS
        else p
        for place, p in enumerate(points)
    ]
    return changed, at


def judge_curves(count: int, first_seed: int) -> None:
    """Print what alerts make of `count` runs, as they are, and with a spike each."""
    alarms, seen, rows, unlearned = 0, 0, 0, 0
    began_s = time.perf_counter()
    for seed in range(first_seed, first_seed + count):
        points = list(curve(seed))
        rows += len(points)
        losses = [p.values["loss/total"] for p in points]
        if not sum(losses[-100:]) < sum(losses[:100]) or not all(map(math.isfinite, losses)):
            unlearned += 1
            print(f"seed {seed} did not learn: {recipe_of(seed)}")
        for finding in judge(points):
            alarms += 1
            print(f"seed {seed}: {finding.text}; {recipe_of(seed)}")
        with_spike, at = spiked(points, seed)
        steps = [f.step for f in judge(with_spike) if f.kind == "spike" and f.step is not None]
        hit = any(at <= step < at + _SEEN_WITHIN for step in steps)
        seen += hit
        if not hit:
            print(f"seed {seed}: spike at {at} not seen; {recipe_of(seed)}")
    print(
        f"{count} healthy curves ({rows:,} rows, {unlearned} did not learn): "
        f"{alarms} false alarms; "
        f"spikes back to the first loss: {seen} of {count} seen within {_SEEN_WITHIN} rows; "
        f"{time.perf_counter() - began_s:.0f} s"
    )


def measure_rows(count: int) -> None:
    """Print what a row costs: read from its line, and judged."""
    draw = random.Random(0)
    names = ["loss/total", *(f"train/metric_{n}" for n in range(_METRICS - 1))]
    lines = [
        encode_row(seq, seq, 1e9 + seq / 100, {name: draw.random() for name in names})[:-1]
        for seq in range(count)
    ]
    shapes = RowShapes()
    began_s = time.process_time()
    rows = [shapes.decode(line) for line in lines]
    read_s = time.process_time() - began_s
    told = [row for row in rows if isinstance(row, Row)]
    print(f"reading a row of {_METRICS} metrics: {read_s / count * 1e6:.2f} us of CPU")
    for title, settings in (
        ("defaults (one loss)", AlertSettings()),
        ("no alert on rows", AlertSettings(non_finite=False, spike=False)),
    ):
        watch = Judge(settings)
        watch.begin(1)
        began_s = time.process_time()
        for start in range(0, count, 1000):
            watch.see(told[start : start + 1000])
        judged_s = time.process_time() - began_s
        print(f"judging it, {title}: {judged_s / count * 1e6:.2f} us of CPU")


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser(prog="python -m bench.alerts", description=__doc__)
    parser.add_argument("--curves", type=int, default=0, help="how many runs to train and judge")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=0, help="how many rows to measure with")
    arguments = parser.parse_args()
    if arguments.curves:
        judge_curves(arguments.curves, arguments.first_seed)
    if arguments.rows or not arguments.curves:
        measure_rows(arguments.rows or 200_000)


if __name__ == "__main__":
    main()
