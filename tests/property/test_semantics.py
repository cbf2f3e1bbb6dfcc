"""Whatever is called in whatever order: the rows and counts are those of a simple model."""

from __future__ import annotations

import itertools
import math
import operator
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.journals import read_entries, read_rows
from support.model import RESERVED, STEP_TIMES, ExpectedRow, Model
from support.model_calls import Call, Flush, Metrics, Mixed, Step
from support.model_scripts import (
    GRAD_NORMS,
    KEPT,
    Script,
    scripts,
    scripts_of_threads,
    thread_of,
)
from support.runs import make_tracker, offline_dirs, wandb_rows
from support.trackers import journal_only

from fasttrack.journal.entries import Config
from fasttrack.worker.gpu import GpuSampler

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fasttrack import ExperimentTracker
    from fasttrack.journal.rows import Row
    from fasttrack.stats import Stats

_CLOCKS_DIFFER_S = 0.05
_FEWEST_NORMS = 20
_GPU = frozenset(GpuSampler(print).sample(None))


def examples(number: int) -> settings:
    """Return settings: the same `number` examples each time; many others in the profile `long`.

    That also makes an example that fails a short one, which takes minutes.
    """
    long = settings.get_current_profile_name() == "long"
    return settings(
        max_examples=number * 40 if long else number,
        derandomize=not long,
        phases=(Phase.generate, Phase.shrink)[: 1 + long],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


class Play:
    """Make a script's calls on a tracker, and tell a model of each."""

    def __init__(self, tracker: ExperimentTracker, model: Model, *, spoils: bool) -> None:
        self._tracker = tracker
        self._model = model
        self._spoils = spoils
        self.times: list[tuple[float, float]] = []
        """Of each call: when it began and ended, in unix time."""

    def make(self, calls: tuple[Call, ...]) -> None:
        """Make `calls`."""
        for call in calls:
            self._model.call = len(self.times)
            call.expect(self._model)
            spoils: list[Any] = []
            began_s = time.time()
            call.perform(self._tracker, spoils)
            self.times.append((began_s, time.time()))
            for spoil in spoils if self._spoils else ():
                spoil()


def check_row(row: Row, expected: ExpectedRow, times: list[tuple[float, float]]) -> None:
    """Compare one row."""
    assert row.step == expected.step
    began_s, ended_s = times[expected.called]
    assert began_s - _CLOCKS_DIFFER_S <= row.time_s <= ended_s + _CLOCKS_DIFFER_S
    named = {name: value for name, value in row.values.items() if name in expected.values}
    assert spelled(named) == spelled(expected.values)
    others = row.values.keys() - named.keys()
    assert expected.ours <= others <= expected.ours | expected.ours_perhaps
    if expected.steps and {"perf/steps_per_sec", *STEP_TIMES} <= others:
        check_perf(row.values, expected)


def check_perf(values: dict[str, float], expected: ExpectedRow) -> None:
    """Compare what `perf/` metrics have to do with one another."""
    p50, p99, longest = (values[name] / 1e3 for name in STEP_TIMES)
    trained_s = expected.steps / values["perf/steps_per_sec"]
    slack = 1e-6 * trained_s + 1e-9
    assert 0 <= p50 <= p99 <= longest <= trained_s + slack
    assert trained_s <= expected.steps * longest + slack
    if expected.samples_per_step is not None and "perf/samples_per_sec" in values:
        ratio = values["perf/samples_per_sec"] / values["perf/steps_per_sec"]
        assert ratio == pytest.approx(expected.samples_per_step)
    if "perf/pause_s" in expected.ours:
        assert values["perf/pause_s"] > 0


def spelled(values: dict[str, Any]) -> dict[str, str]:
    """Return numbers so that 1 and 1.0 differ, 0.0 and -0.0, and that NaN is NaN."""
    return {name: repr(value) for name, value in values.items()}


def check_reasons(stats: Stats, expected: Counter[tuple[str, str]]) -> None:
    """Compare what was lost by its reason."""
    found: Counter[tuple[str, str]] = Counter()
    for text, number in stats.reasons.items():
        fitting = [
            (name, why) for name, why in expected if text.startswith(f"{name}: ") and why in text
        ]
        assert len(fitting) == 1, (text, expected)
        found[fitting[0]] += number
    assert found == expected


def check_stats(stats: Stats, model: Model, log_interval: int) -> None:
    """Compare all counts."""
    assert stats.rows_written == len(model.rows)
    assert stats.out_of_order == model.out_of_order
    assert stats.refused == model.refused.total()
    assert stats.failed_calls == model.failed.total()
    assert stats.late_calls == model.late
    lost = (stats.dropped, stats.stale, stats.journal_errors, stats.worker_errors, stats.cut_off)
    assert lost == (0, 0, 0, 0, 0)
    assert stats.effective_interval == log_interval
    check_reasons(stats, model.refused + model.failed)


def make(script: Script, directory: str, **options: Any) -> ExperimentTracker:
    """Return the script's tracker."""
    return make_tracker(
        log_interval=script.log_interval,
        gpu_stats_interval=script.gpu_stats_interval,
        options=journal_only(
            directory=directory,
            capture=script.capture,
            grad_norm=script.grad_norm,
            flush_interval_s=script.flush_interval_s,
            find_pauses=False,  # a machine that is busy makes steps long
            **options,
        ),
    )


def directory_of(tracker: ExperimentTracker) -> Path:
    """Return the run's directory."""
    directory = tracker.get_run_dir()
    assert directory is not None
    return directory


def model_of(script: Script, *, alone: bool = True) -> Model:
    """Return what is to expect of a script's tracker."""
    return Model(
        script.log_interval,
        script.gpu_stats_interval,
        norms=script.grad_norm != "off",
        gpu=_GPU,
        alone=alone,
    )


def check_rows(rows: list[Row], model: Model, play: Play) -> None:
    """Compare rows with those of the model, one by one."""
    assert [row.step for row in rows] == [row.step for row in model.rows]
    for row, expected in zip(rows, model.rows, strict=True):
        check_row(row, expected, play.times)


def merged(rows: Iterable[tuple[int, dict[str, float]]]) -> list[tuple[int, dict[str, Any]]]:
    """Join rows of one step that follow one another, as W&B shows them; 1.0 is its 1."""
    return [
        (
            step,
            {
                name: "NaN" if math.isnan(value) else value
                for _, values in group
                for name, value in values.items()
            },
        )
        for step, group in itertools.groupby(rows, key=itemgetter(0))
    ]


@pytest.fixture
def norms(grad_norm: str) -> Iterator[list[float]]:
    """The norms of gradients that were found in rows; there must be many, or none."""
    found: list[float] = []
    yield found
    assert len(found) >= _FEWEST_NORMS if grad_norm != "off" else not found


@pytest.mark.timeout(900)  # where it fails, the script is made short
@pytest.mark.parametrize("grad_norm", GRAD_NORMS)
@examples(12)
@given(st.data())
def test_any_sequence_of_calls_leaves_the_rows_and_counts_of_the_model(
    grad_norm: str, norms: list[float], data: st.DataObject
) -> None:
    """The journal row by row, names, steps and values exactly, and what `stats()` counts."""
    script = data.draw(scripts(grad_norm))
    with tempfile.TemporaryDirectory() as directory:
        tracker, model = make(script, directory), model_of(script)
        play = Play(tracker, model, spoils=script.spoils)
        run_dir = directory_of(tracker)
        for call in script.calls:
            play.make((call,))
            if isinstance(call, Flush):
                assert len(read_rows(run_dir)) == len(model.rows)
        tracker.finish()
        model.finished = True
        play.make(script.late)
        tracker.finish()

        rows = read_rows(run_dir)
        check_rows(rows, model, play)
        norms += [
            row.values["train/grad_norm"]
            for row, expected in zip(rows, model.rows, strict=True)
            if expected.norm
        ]
        assert [row.seq for row in rows] == list(range(len(rows)))
        assert [entry.values for entry in read_entries(run_dir, Config)] == model.configs
        check_stats(tracker.stats(), model, script.log_interval)


@pytest.mark.timeout(900)
@examples(8)
@given(scripts_of_threads())
def test_each_of_several_threads_finds_its_own_rows_in_order(scripts: tuple[Script, ...]) -> None:
    """Nothing of one thread is lost, doubled, or comes before what that thread logged earlier."""
    with tempfile.TemporaryDirectory() as directory:
        tracker = make(scripts[0], directory)
        models = [model_of(script, alone=False) for script in scripts]
        plays = [Play(tracker, model, spoils=scripts[0].spoils) for model in models]
        together = threading.Barrier(len(scripts))

        def log(play: Play, script: Script) -> None:
            together.wait()
            play.make(script.calls)

        with ThreadPoolExecutor(len(scripts)) as pool:
            list(pool.map(log, plays, scripts))
        tracker.finish()

        rows = read_rows(directory_of(tracker))
        for number, (model, play) in enumerate(zip(models, plays, strict=True)):
            check_rows([row for row in rows if thread_of(row.values) == number], model, play)
        together_they = model_of(scripts[0])
        for model in models:
            together_they.rows += model.rows
            together_they.refused += model.refused
            together_they.failed += model.failed
        # Which row came behind which is the threads' own business.
        steps = [row.step for row in rows]
        together_they.out_of_order = sum(map(operator.gt, steps, steps[1:]))
        check_stats(tracker.stats(), together_they, scripts[0].log_interval)


@pytest.mark.timeout(900)
@examples(2)
@given(scripts())
def test_what_is_delivered_offline_is_what_the_journal_holds(script: Script) -> None:
    """W&B's own file has each step's metrics; calls that follow one another for one are joined."""
    with tempfile.TemporaryDirectory() as directory:
        tracker = make(script, directory, backends=("wandb",), finish_timeout_s=60.0)
        model = model_of(script)
        play = Play(tracker, model, spoils=script.spoils)
        play.make((*script.calls, Metrics(Mixed((KEPT,)), Step(0, 0))))
        tracker.finish()

        rows = read_rows(directory_of(tracker))
        check_rows(rows, model, play)
        (offline,) = offline_dirs(Path(directory))
        delivered = merged(
            (row["step"], {name: row[name] for name in row.keys() - RESERVED.keys()})
            for row in wandb_rows(offline)
        )
        assert delivered == merged((row.step, row.values) for row in rows)
