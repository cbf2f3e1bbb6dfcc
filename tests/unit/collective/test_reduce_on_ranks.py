"""Values and norms that four real ranks share: in calls of their own, and in the logging calls.

One story, as each rank imports torch's parallel parts, for seconds. What is logged is compared with
values gathered by hand, by `full_tensor()`, and by a model that is on one rank.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.runs import journal_rows, run_script
from support.sharded_story import SHARDED_STORY

_RANKS = 4


@dataclass(frozen=True)
class Rank:
    """What one rank told."""

    results: dict[str, list[float]]
    """By name: what `reduce` returned, and the truth."""
    said: dict[str, Any]
    stderr: str


@dataclass(frozen=True)
class Story:
    """What all ranks told, and the rows of the recording one."""

    ranks: list[Rank]
    base: Path

    def rows(self, run: str = "run", rank: int = 0) -> dict[int, dict[str, float]]:
        """Return what a run's journal holds, by step."""
        rows: dict[int, dict[str, float]] = {}
        for row in journal_rows(self.base, self.ranks[rank].said[run]):
            rows.setdefault(row.step, {}).update(row.values)
        return rows


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Four ranks, from the first import to the last barrier."""
    base = tmp_path_factory.mktemp("ranks")
    run_script(SHARDED_STORY, str(base), warnings=None)
    ranks = []
    for number in range(_RANKS):
        results, said = json.loads((base / f"told{number}").read_text())
        ranks.append(Rank(results, said, (base / f"stderr{number}").read_text()))
    return Story(ranks, base)


def test_what_is_reduced_is_the_truth_on_every_rank(story: Story) -> None:
    """Ops, names, ranks without a value, groups, meshes, DTensors, norms of every kind of model."""
    wrong = [
        (number, name, got, true)
        for number, rank in enumerate(story.ranks)
        for name, (got, true) in rank.results.items()
        if not math.isclose(got, true, rel_tol=1e-6)
    ]

    assert wrong == []
    assert set(story.ranks[3].results) == set(story.ranks[0].results)
    assert len(story.ranks[0].results) > 25


def test_the_rows_hold_what_was_reduced(story: Story) -> None:
    """To the last bit; and the global norms as `train/grad_norm`, with the mean loss of all."""
    results, rows = story.ranks[0].results, story.rows()

    logged = {name: value for name, value in rows[0].items() if name in results}
    assert logged == {name: got for name, (got, _) in results.items()}
    models = ("fsdp2", "hsdp", "tp", "fsdp2 x tp", "half of it sharded", "frozen")
    norms = [row["train/grad_norm"] for row in rows.values() if "train/grad_norm" in row]
    assert norms == [results[name][0] for name in models]
    assert [row["loss/total"] for row in rows.values() if "train/grad_norm" in row] == [1.5] * 6


def test_a_rank_that_passes_no_number_keeps_nobody_waiting(story: Story) -> None:
    """It takes part with NaN, and says so; the other value of the call is not harmed."""
    assert [rank.said["bad"] for rank in story.ranks] == [[True, 1.0]] * _RANKS
    assert [rank.stderr.count("bad: a str 'text'") for rank in story.ranks] == [0, 0, 1, 0]


def test_a_rank_outside_the_group_gets_nothing(story: Story) -> None:
    """Its own value would pass for the group's."""
    assert [rank.said["pair"] for rank in story.ranks] == [None, 3.0, 3.0, None]
    assert "this rank is not in the process group" in story.ranks[0].stderr


def test_what_only_one_rank_calls_is_refused_with_the_advice(story: Story) -> None:
    """It waits, says who is missing, and trains on; those that come later are told."""
    alone = story.ranks[0]
    assert alone.said["alone"] == [True] * 3
    for name in ("only", "reduce_grad_norm", "part"):
        assert (
            f"{name}: rank 1, 2, 3 of 4 ranks did not make this call within 0.2 s" in alone.stderr
        )
    assert "such as `if rank == 0`; not reduced" in alone.stderr
    assert [rank.said["late"] for rank in story.ranks] == [True] * _RANKS
    assert all("ranks did not make this call" in rank.stderr for rank in story.ranks)


def test_a_rank_that_is_gone_costs_the_value_and_not_the_run(story: Story) -> None:
    """The collective fails on the other; it is said, and what that logs next is there."""
    assert story.ranks[0].said["gone"] is True
    assert "reduce: raised RuntimeError(" in story.ranks[0].stderr
    assert story.rows()[0]["after"] == 1.0


def test_calls_in_different_order_are_refused_and_not_mixed(story: Story) -> None:
    """They are equally long, so that the collective itself notices nothing."""
    for rank in story.ranks:
        assert (rank.said["order a"], rank.said["order b"]) == (True, True)
        assert "the ranks made different calls of it" in rank.stderr


def test_a_part_is_refused_where_it_is_logged(story: Story) -> None:
    """A value and a model: the rows have none of them, and the advice is the call."""
    assert "local" not in story.rows()[0]
    assert "local: a DTensor of which this rank holds a part" in story.ranks[0].stderr
    assert "on every rank call tracker.reduce(tensor)" in story.ranks[0].stderr
    assert "a parameter is a sharded DTensor; pass grad_norm=" in story.ranks[0].stderr


def test_the_last_stage_records_the_pipelines_loss_and_whole_norm(story: Story) -> None:
    """`log_rank` is a rank of the last stage: GPipe, 1F1B."""
    last = story.ranks[3]
    rows = story.rows("last", rank=3)

    assert [rank.said["last"] for rank in story.ranks[:3]] == [None] * 3
    for step, (loss, norm) in enumerate(last.said["at the last"]):
        assert rows[step]["loss/total"] == pytest.approx(loss, rel=1e-6)
        assert rows[step]["train/grad_norm"] == pytest.approx(norm, rel=1e-6)


def test_another_tracker_asks_anew(story: Story) -> None:
    """What the ranks answered the first one is not taken for an answer."""
    assert [rank.said["second"] for rank in story.ranks] == [[False, True]] + [[False]] * 3
    assert "a: rank 1, 2, 3 of 4 ranks did not make this call within 0.2 s" in story.ranks[0].stderr


def test_names_that_change_leave_nothing_in_the_store(story: Story) -> None:
    """Nor do the logging calls, but for the last meeting."""
    for rank in story.ranks:
        assert rank.said["keys"] == 0
        assert rank.said["meetings"] == [7, True]
        assert not any(rank.said["left"])


def test_the_logging_calls_of_all_ranks_reduce(story: Story) -> None:
    """Losses, further values, clipped norms, and the norms of models, at the steps logged."""
    rows, truth = story.rows("every"), story.ranks[0].said["together"]

    norms = [rows[2 * number]["train/grad_norm"] for number in range(len(truth))]
    assert norms == pytest.approx(truth, rel=1e-6)
    assert len(truth) == 5
    for number in range(len(truth)):
        row = rows[2 * number]
        assert [row[name] for name in ("loss/total", "rank", "max", "pair")] == [91, 0, 13, 13]
    assert rows[10]["train/grad_norm"] == pytest.approx(819**0.5, rel=1e-6)
    assert [rows[10][name] for name in ("loss/aux", "a", "eval", "plain")] == [91, 1, 91, 2]
    assert rows[14]["loss/total"] == 91
    assert rows[14]["train/grad_norm"] == pytest.approx(truth[0], rel=1e-6)


def test_a_rank_that_has_ended_takes_part(story: Story) -> None:
    """Nobody waits for it in vain, and nothing is lost but its own late calls."""
    assert [rank.said["lost"] for rank in story.ranks] == [[0, 2 * (r == 2), 0] for r in range(4)]


def test_the_norm_of_a_model_on_some_of_the_ranks_is_refused(story: Story) -> None:
    """Whether the others hold more of it, as in a pipeline, no logging call can know."""
    assert "train/grad_norm" not in story.rows("every")[16]
    for rank in story.ranks:
        assert "the model is on 2 of 4 ranks" in rank.stderr
        assert "on every rank call tracker.reduce_grad_norm(model), with group=" in rank.stderr


def test_a_logging_call_of_one_rank_is_refused_with_the_advice(story: Story) -> None:
    """Once it waits, and nobody does later; the row has what needs no other rank."""
    alone, rows = story.ranks[0], story.rows("lone")

    assert [rows[step]["b"] for step in (0, 2)] == [1, 2]
    assert not any({"loss/total", "train/grad_norm"} & rows[step].keys() for step in rows)
    assert alone.stderr.count("ranks did not make this call within 0.3 s of the first") == 1
    assert all("is not reduced by the logging calls: " in rank.stderr for rank in story.ranks)
    assert "loss/total: a DTensor of which this rank holds a part" in alone.stderr


def test_logging_calls_that_differ_between_ranks_are_refused_at_once(story: Story) -> None:
    """One rank has a value more: no collective begins, and none of a later call."""
    assert all("loss/total" not in row for row in story.rows("different").values())
    what = "loss (Partial(sum), Partial(sum))"
    for rank in story.ranks[:3]:
        assert f"made different calls, this one log_training_step at step 0: {what};" in rank.stderr
    assert f"{what}, extra only (Partial(sum)" in story.ranks[3].stderr


def test_steps_that_each_rank_chooses_are_not_reduced(story: Story) -> None:
    """With a budget ranks may log other steps; metrics are logged on all of them."""
    assert story.rows("budget")[0]["eval"] == 91
    assert "loss/total" not in story.rows("budget")[0]
    assert "as overhead_budget has each rank decide which steps it logs" in story.ranks[0].stderr
