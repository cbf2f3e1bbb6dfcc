"""What calls of `log` make rows of, next to what W&B's own client makes of the same calls."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.runs import HANG_GUARD_S, run_script, script_environment
from support.wandb_files import read_wandb_file

from fasttrack.wandb.rows import Rows

_CLIENT = """
import json, sys, wandb
settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True)
for number, calls in enumerate(json.load(sys.stdin)):
    run = wandb.init(mode="offline", project="p", id=f"n{number}", settings=settings)
    for data, step, commit in calls:
        run.log(data, step=step, commit=commit)
    run.finish()
"""
_NUMBERS = st.one_of(st.integers(-5, 5), st.floats(-2, 2).map(lambda x: round(x, 3)), st.none())
_NESTED = st.dictionaries(st.sampled_from("xy"), st.one_of(_NUMBERS, st.just({"z": 1})), max_size=2)
_DATA = st.dictionaries(st.sampled_from("abm"), st.one_of(_NUMBERS, _NESTED), max_size=3)
_STEPS = st.one_of(st.none(), st.none(), st.integers(-1, 6))
_CALLS = st.lists(st.tuples(_DATA, _STEPS, st.sampled_from([None, None, True, False])), max_size=8)


@settings(
    max_examples=1,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(_CALLS, min_size=60, max_size=60))
def test_any_calls_make_the_rows_that_the_client_makes(sequences: list[list[Any]]) -> None:
    """Sixty sequences of calls at once; rows without any number are not ours."""
    subprocess.run(
        [sys.executable, "-c", _CLIENT],
        input=json.dumps(sequences),
        text=True,
        check=True,
        env=script_environment(),
        timeout=HANG_GUARD_S,
    )

    for number, calls in enumerate(sequences):
        (directory,) = Path().glob(f"wandb/offline-run-*-n{number}")
        theirs = [_numbers(row) for row in read_wandb_file(directory).rows]
        assert _rows_of(calls) == [row for row in theirs if len(row) > 1], calls


def _rows_of(calls: list[Any], first_step: int = 0) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    mine = Rows(lambda values, step: rows.append({**_flat(values), "_step": step}), first_step)
    for data, step, commit in calls:
        mine.log(data, step, commit)
    mine.close_at_end()
    return rows


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        flat |= {f"{prefix}{name}": value} if inner is None else inner
    return flat


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def test_a_script_that_logs_its_own_step_has_it_as_the_axis() -> None:
    """The metric `step` is what the tracker's step is shown as; later rows never go behind it."""
    calls = [({"step": 100, "a": 1}, None, None), ({"step": 200, "a": 2}, None, None)]

    assert _rows_of([*calls, ({"b": 3}, None, None)]) == [
        {"a": 1, "_step": 100},
        {"a": 2, "_step": 200},
        {"b": 3, "_step": 200},
    ]


def test_the_axis_of_a_metric_comes_along() -> None:
    """As the client's `step_sync` has it: its last value, where the call has none."""
    rows: list[dict[str, Any]] = []
    mine = Rows(lambda values, step: rows.append(values), 0)
    mine.log({"epoch": 1}, None, None)
    mine.set_axis("val/*", "epoch")
    mine.set_axis("val/own", "other")
    for data in ({"val/loss": 0.5}, {"val/own": 1}, {"epoch": 2, "val/loss": 0.25}, {"train": 1}):
        mine.log(data, None, None)

    assert rows[1:] == [
        {"val/loss": 0.5, "epoch": 1},
        {"val/own": 1},
        {"epoch": 2, "val/loss": 0.25},
        {"train": 1},
    ]


def test_an_open_row_has_the_values_of_the_call() -> None:
    """Tensors that change in place, and mappings that the script goes on filling."""
    rows: list[dict[str, Any]] = []
    mine = Rows(lambda values, step: rows.append(values), 0)
    total, losses = torch.tensor(1.5), {"train": 0.5}
    mine.log({"total": total, "losses": losses}, None, False)
    total.zero_()
    losses["val"] = 0.25
    mine.log({}, None, None)

    assert rows == [{"total": 1.5, "losses": {"train": 0.5}}]


def test_a_step_that_is_no_integer_is_no_step(capsys: Any) -> None:
    """The client raises; here the values are kept, and it is said."""
    assert _rows_of([({"a": 1}, 3.0, None), ({"b": 2}, "7", None), ({"c": 3}, 2.5, True)]) == [
        {"a": 1, "b": 2, "_step": 3},
        {"c": 3, "_step": 4},
    ]
    assert capsys.readouterr().err.count("a step must be an integer") == 1


def test_values_on_a_device_are_copied_and_not_waited_for() -> None:
    """In open rows, too: the simulated device does nothing until all calls have returned."""
    result = run_script(
        """
        import os, sys, torch
        from support import toy_streams as toy
        kept = toy.install()
        from support.journals import read_rows
        import fasttrack.wandb as wandb

        run = wandb.init(project="p", config={"lr": 0.1})
        base = torch.ones(()).to("toy")
        toy.Queue.standing = True
        for step in range(3):
            loss = base * (step + 0.5)
            run.log({"loss": loss, "val": {"loss": loss}}, commit=False)
            loss.zero_()
            run.log({"closing": base * step})
        toy.Queue.run()
        run.finish()
        print([row.values for row in read_rows(run.tracker.get_run_dir())])
        sys.stdout.flush()
        os._exit(0)
        """,
        warnings="default",
    )

    assert ast.literal_eval(result.stdout) == [
        {"loss": step + 0.5, "val.loss": step + 0.5, "closing": step} for step in range(3)
    ]


def test_what_is_no_step_is_not_waited_for() -> None:
    """A tensor on the host is an integer as any; one on a device would take a wait."""

    class OnDevice:
        """What a tensor on a device looks like here."""

        is_cpu = False

        def __index__(self) -> int:
            raise AssertionError("it was waited for")

    assert _rows_of([({"a": 1}, torch.tensor(3), None), ({"b": 2}, OnDevice(), None)]) == [
        {"a": 1, "b": 2, "_step": 3}
    ]
