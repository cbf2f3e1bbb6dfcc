"""What becomes of names, numbers and times on their way to MLflow."""

from __future__ import annotations

import math
import random
import sys

import pytest

from fasttrack.delivery.backends.mlflow.describing import Description, tags_from
from fasttrack.delivery.backends.mlflow.names import Stamps, kept, name_for, number_for
from fasttrack.journal.rows import Row

PLAIN = ["loss", "train/lr", "a.b", "a b", "a-b", "a:b", "ä", "x" * 250, "_", "a/..b"]
ODD = [
    *("acc@5", "F1(macro)", "loss,val", "%", "", ".", "..", "../a", "/a", "a/", "a//b", "a/./b"),
    *("a/../b", "a\n", "x" * 251, "é" * 300, "\ud800"),
]


@pytest.mark.parametrize("name", PLAIN)
def test_a_name_that_mlflow_takes_stays(name: str) -> None:
    assert name_for(name) == name


@pytest.mark.parametrize("name", ODD)
def test_another_gets_a_name_that_mlflow_takes_and_keeps(name: str) -> None:
    """It is the same in every run, and a name itself."""
    spelled = name_for(name)

    assert spelled != name
    assert name_for(spelled) == spelled
    assert len(spelled) <= 250


def test_no_two_names_become_one() -> None:
    """Nor does one become another that needs nothing."""
    names = [*PLAIN, *ODD, "acc_5", "acc#5", "acc@5 "]

    assert len({name_for(name) for name in names}) == len(names)


def test_a_spelled_name_can_be_read() -> None:
    assert name_for("acc@5").startswith("acc_5-")
    assert name_for("val//acc@5").startswith("val/acc_5-")


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, 1.0),
        (True, 1.0),
        (2**64 - 1, 2.0**64),
        (math.inf, math.inf),
        (sys.float_info.max, math.inf),
        (-sys.float_info.max, -math.inf),
        (1e300, 1e300),
    ],
)
def test_a_number_is_what_mlflow_keeps(value: float, number: float) -> None:
    """Its databases keep infinity as the greatest number there is: the two are one."""
    assert number_for(value) == number


def test_nan_stays_nan() -> None:
    assert math.isnan(number_for(math.nan))


def test_a_row_keeps_its_step_and_loses_what_is_refused() -> None:
    row = Row(0, 2**64 - 1, 1e9, {"a": 1, "acc@5": 0.5})

    assert kept(row, refused={"a"}) == (2**63 - 1, {name_for("acc@5"): 0.5})


def test_rows_of_one_step_in_one_millisecond_get_stamps_of_their_own() -> None:
    """A database would take the second one for the first."""
    rows = [Row(seq, 5, 1000.0 + seq / 1e5, {"a": 1.0}) for seq in range(10)]
    stamps = Stamps()

    assert [stamps.of(row) for row in rows] == list(range(1_000_000, 1_000_010))


def test_rows_at_their_own_time_keep_it() -> None:
    rows = [Row(seq, seq, 1000.0 + seq / 1e4, {"a": 1.0}) for seq in range(100)]
    stamps = Stamps()

    assert [stamps.of(row) for row in rows] == [int(row.time_s * 1000) for row in rows]


@pytest.mark.parametrize("seed", range(5))
def test_no_step_has_a_stamp_twice_unless_the_clock_was_set_back(seed: int) -> None:
    rng = random.Random(seed)
    time_s, seen, stamps = 1000.0, set(), Stamps()
    for seq in range(2000):
        time_s += rng.choice((0.0, 0.0, 0.0004, 0.002))
        step = rng.randrange(4)
        stamp = (step, stamps.of(Row(seq, step, time_s, {"a": 1.0})))

        assert stamp not in seen
        seen.add(stamp)


def test_a_time_that_is_none_is_one() -> None:
    assert Stamps().of(Row(0, 0, -5.0, {})) == 0
    assert Stamps().of(Row(0, 0, 1e300, {})) == 2**62


def test_what_a_parameter_became_is_a_tag() -> None:
    """A parameter can never be changed at MLflow."""
    description = Description({"lr": "0.1"}, {})
    description.configure({"lr": 0.2, "model": {"layers": 3, "sizes": [1, 2]}})

    assert description.new_parameters == {"model.layers": "3", "model.sizes": "[1, 2]"}
    assert description.new_tags == {"config.lr": "0.2"}


def test_a_parameter_that_is_what_it_was_again_has_its_tag_say_so() -> None:
    description = Description({"lr": "0.1"}, {"config.lr": "0.2"})
    description.configure({"lr": 0.1})

    assert description.new_tags == {"config.lr": "0.1"}


def test_metadata_are_tags() -> None:
    """They are others with every attempt."""
    description = Description({}, {})
    description.configure({"metadata": {"git": {"commit": "abc"}, "seeds": {"python": 0}}})

    assert description.new_parameters == {}
    assert description.new_tags == {
        "metadata.git.commit": "abc",
        "metadata.seeds.python": "0",
        "mlflow.source.git.commit": "abc",
    }


def test_what_is_too_long_is_cut() -> None:
    description = Description({}, {})
    description.configure({"text": "x" * 7000})

    assert description.new_parameters["text"] == "x" * 5997 + "..."
    assert tags_from(["note:" + "x" * 9000])["note"] == "x" * 7997 + "..."


def test_a_batch_is_not_more_than_a_server_takes() -> None:
    """A thousand values, and no more than a million bytes, however the names are spelled."""
    pytest.importorskip("mlflow")
    from fasttrack.delivery.backends.mlflow.client import Point, batches

    many = [Point("loss", 0.0, 0, step) for step in range(2500)]
    long = [Point("é" * 250, 0.0, 0, step) for step in range(1000)]

    assert [len(batch) for batch in batches(many)] == [1000, 1000, 500]
    assert [point for batch in batches(long) for point in batch] == long
    assert max(len(batch) for batch in batches(long)) * (6 * 250 + 100) < 1e6
    assert list(batches([])) == []
