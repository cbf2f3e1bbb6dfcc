"""The mapping of journal rows to W&B steps."""

from __future__ import annotations

import random

from fasttrack.delivery.backends.wandb.steps import StepMapper

Rows = list[tuple[int, list[str]]]

_SCRIPTS = 500  # careless scripts to try, each from a seed of its own


def place_all(rows: Rows, last: int = -1) -> list[int]:
    """Return the `_step` of each row."""
    mapper = StepMapper(last)
    return [mapper.place(step, names) for step, names in rows]


def random_rows(seed: int) -> Rows:
    """Return rows as a careless training script logs them: repeats, jumps back, shared names."""
    rng = random.Random(seed)
    step, rows = 0, []
    for _ in range(rng.randint(1, 60)):
        step += rng.choice((0, 0, 0, 1, 1, 10, -1, -25))
        rows.append((step, rng.sample(["a", "b", "c", "d"], rng.randint(1, 3))))
    return rows


def test_rising_user_steps_are_kept() -> None:
    """In a well-behaved run W&B's step is the user's."""
    assert place_all([(0, ["a"]), (10, ["a"]), (25, ["a"])]) == [0, 10, 25]


def test_rows_of_one_step_with_different_metrics_share_it() -> None:
    """W&B merges them into one row."""
    assert place_all([(5, ["a"]), (5, ["b"]), (5, ["c", "d"]), (6, ["a"])]) == [5, 5, 5, 6]


def test_metric_that_comes_twice_in_a_step_gets_a_row_of_its_own() -> None:
    """Merging would lose the first value."""
    assert place_all([(5, ["a"]), (5, ["a"]), (5, ["b"]), (5, ["b"])]) == [5, 6, 6, 7]


def test_collision_counts_against_every_metric_of_the_merged_row() -> None:
    """The third row collides with the first although the second lies between."""
    assert place_all([(5, ["a"]), (5, ["b"]), (5, ["a", "c"])]) == [5, 5, 6]


def test_step_behind_the_last_goes_right_after_it() -> None:
    """W&B would drop the row; nothing is dropped by order."""
    assert place_all([(100, ["a"]), (3, ["a"]), (4, ["a"]), (101, ["a"])]) == [100, 101, 102, 103]


def test_rows_of_one_backward_step_still_share_a_step() -> None:
    """An evaluation at an old step is one row, too."""
    assert place_all([(100, ["a"]), (3, ["b"]), (3, ["c"]), (200, ["a"])]) == [100, 101, 101, 200]


def test_rows_of_one_step_that_do_not_follow_each_other_are_not_merged() -> None:
    """W&B's step only rises: there is no way back to an earlier row."""
    assert place_all([(5, ["a"]), (6, ["a"]), (5, ["b"])]) == [5, 6, 7]


def test_negative_steps_come_after_what_is_there() -> None:
    """W&B knows no step below 0."""
    assert place_all([(-10, ["a"]), (-9, ["a"]), (0, ["a"]), (7, ["a"])]) == [0, 1, 2, 7]


def test_mapping_starts_behind_what_the_server_has() -> None:
    """A resumed run's rows never land on steps that are taken."""
    assert place_all([(40, ["a"]), (41, ["a"]), (60, ["a"])], last=50) == [51, 52, 60]


def test_closed_row_takes_no_more() -> None:
    """The next segment's first row is never merged into this one's last."""
    mapper = StepMapper(-1)

    first = mapper.place(5, ["a"])
    mapper.close()
    second = mapper.place(5, ["b"])

    assert (first, second) == (5, 6)


def test_closing_twice_or_before_the_first_row_changes_nothing() -> None:
    """An empty segment ends, too."""
    mapper = StepMapper(-1)
    mapper.close()
    mapper.close()

    assert (mapper.place(0, ["a"]), mapper.last, mapper.placed) == (0, 0, 1)


def test_names_may_be_any_iterable() -> None:
    """The courier passes a row's dict; a generator is read once."""
    mapper = StepMapper(-1)

    steps = [mapper.place(1, {"a": 1.0}), mapper.place(1, (n for n in "b")), mapper.place(1, "b")]

    assert steps == [1, 1, 2]


def test_replay_gives_every_row_the_same_step() -> None:
    """Exactly-once delivery rests on this: a second courier skips by step alone."""
    for seed in range(_SCRIPTS):
        rows = random_rows(seed)

        assert place_all(rows) == place_all(rows), rows


def test_mapping_goes_on_from_any_closed_point() -> None:
    """A session that begins at a later segment agrees with one that replays all of them."""
    for seed in range(_SCRIPTS):
        rows, more = random_rows(seed), random_rows(seed + _SCRIPTS)
        whole = StepMapper(-1)
        for step, names in rows:
            whole.place(step, names)
        whole.close()

        continued = [whole.place(step, names) for step, names in more]

        assert continued == place_all(more, last=max(place_all(rows))), (rows, more)


def test_steps_only_rise_and_no_value_is_lost() -> None:
    """Merging as W&B does, by step, gives back every value; a step is never behind the user's."""
    for seed in range(_SCRIPTS):
        rows = random_rows(seed)
        mapper = StepMapper(-1)

        placed = [mapper.place(step, names) for step, names in rows]

        at = list(zip(placed, rows, strict=True))
        merged = {(target, name) for target, (_, names) in at for name in names}
        owners = {(target, step) for target, (step, _) in at}
        assert placed == sorted(placed), rows
        assert len(merged) == sum(len(names) for _, names in rows), rows
        assert len(owners) == len(set(placed)) == mapper.placed, rows
        assert all(target >= step for target, (step, _) in at), rows
        assert mapper.last == placed[-1], rows
