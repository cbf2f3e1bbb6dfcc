"""What the server shows is compared line by line first; whatever is amiss is left to the rest."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from support.listed_server import KeptPages, NoPages, Scene, make_rows

from fasttrack.delivery.backends.wandb import in_step
from fasttrack.delivery.backends.wandb.in_step import count_in_step
from fasttrack.delivery.backends.wandb.pages import Pages
from fasttrack.errors import BackendLostError, UnprovenError
from fasttrack.journal.rows import Row

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fasttrack.delivery.backends.wandb.standing import Standing

COUNT = 60
Kept = list[dict[str, object]]


class Delivered(Scene):
    """Rows on a server that shows pages, of a run whose client adds what it always does."""

    def __init__(self, base: Path, rows: list[Row]) -> None:
        super().__init__(base, rows)
        self.pages = KeptPages(self.server.kept)
        self.server.pages = self.pages
        self.standing = self.session()
        self.deliver(self.standing)
        merged: dict[object, dict[str, object]] = {}
        for line in self.server.kept:
            merged.setdefault(line["_step"], {}).update(line)
        self.server.kept[:] = merged.values()
        for line in self.server.kept:
            line |= {"_runtime": 0.5, "_timestamp": 1.7e9}

    def count(self) -> int | None:
        """Compare in step."""
        return count_in_step(self.standing, self.pages)


def test_what_is_all_there_is_proven_without_the_public_api(tmp_path: Path) -> None:
    """Once through the journal, once through the server."""
    scene = Delivered(tmp_path, make_rows(COUNT))

    assert scene.prove(scene.standing) == "60 rows read back from the server"
    assert scene.server.read == 0
    assert scene.pages.asked == [(0, COUNT)]


def test_pages_leave_no_step_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps without a row lie before, between and behind those of a page."""
    monkeypatch.setattr(in_step, "_MOST_LINES", 7)
    rows = [Row(n, 5 + 3 * n, 0.0, {"loss": float(n)}) for n in range(20)]
    scene = Delivered(tmp_path, rows)

    assert scene.count() == 20
    ends = [end for _, end in scene.pages.asked]
    assert [first for first, _ in scene.pages.asked] == [0, *ends[:-1]]
    assert ends == [24, 45, 63]


def test_values_are_numbers_however_they_are_spelled(tmp_path: Path) -> None:
    """JSON knows no NaN; a server may spell 1.0 as 1."""
    values = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0, "e": 2**60 + 1}
    scene = Delivered(tmp_path, [Row(0, 0, 0.0, values)])
    told = {"a": "NaN", "b": "Infinity", "c": "-Infinity", "d": 1, "e": float(2**60)}
    scene.server.kept[0] |= told

    assert scene.count() == 1


def test_a_line_of_several_rows_and_one_that_came_late_are_in_step(tmp_path: Path) -> None:
    """The client says of a late one when it was logged, unless the user does."""
    rows = [
        Row(0, 0, 0.0, {"a": 1.0}),
        Row(1, 0, 0.0, {"b": 2.0}),
        Row(2, 1, 0.0, {"a": 3.0}),
        Row(3, 2, 0.0, {"a": 4.0, "time/logged_at": 5.0}),
    ]
    scene = Delivered(tmp_path, rows)
    scene.server.kept[1]["time/logged_at"] = 1.6e9

    assert [line["_step"] for line in scene.server.kept] == [0, 1, 2]
    assert scene.count() == 4
    scene.server.kept[2]["time/logged_at"] = 6.0
    assert scene.count() is None


def _change(kept: Kept) -> None:
    kept[31]["loss"] = 31.0000001


def _double(kept: Kept) -> None:
    kept.insert(31, dict(kept[31]))


def _lose(kept: Kept) -> None:
    del kept[31]


def _lose_the_last(kept: Kept) -> None:
    del kept[-1]


def _swap(kept: Kept) -> None:
    kept[31]["loss"], kept[32]["loss"] = kept[32]["loss"], kept[31]["loss"]


def _swap_steps(kept: Kept) -> None:
    kept[31]["step"], kept[32]["step"] = kept[32]["step"], kept[31]["step"]


def _lose_a_value(kept: Kept) -> None:
    del kept[31]["loss"]


def _write_behind(kept: Kept) -> None:
    kept.append({"loss": -1.0, "step": 31, "_step": COUNT + 5})


def _write_over(kept: Kept) -> None:
    kept[31] |= {"loss": -31.0}


@pytest.mark.parametrize(
    ("sabotage", "error", "why"),
    [
        (_change, UnprovenError, r"1 of 60 rows are not there \(steps 31\)"),
        (_lose, BackendLostError, r"1 of 60 rows are not there \(steps 31\)"),
        (_lose_the_last, BackendLostError, r"1 of 60 rows are not there \(steps 59\)"),
        (_swap, UnprovenError, r"2 of 60 rows are not there \(steps 31 to 32\)"),
        (_swap_steps, UnprovenError, r"2 of 60 rows are not there \(steps 31 to 32\)"),
        (_lose_a_value, UnprovenError, r"1 of 60 rows are not there \(steps 31\)"),
        (_write_over, UnprovenError, r"1 of 60 rows are not there \(steps 31\)"),
        (_write_behind, UnprovenError, "rows of another origin came meanwhile"),
    ],
)
def test_sabotage_is_found(
    tmp_path: Path, sabotage: Callable[[Kept], None], error: type[Exception], why: str
) -> None:
    """What is not in step is compared by content, which names what is wrong."""
    scene = Delivered(tmp_path, make_rows(COUNT))
    sabotage(scene.server.kept)

    assert scene.count() is None
    with pytest.raises(error, match=why):
        scene.prove(scene.standing)


def test_a_doubled_row_is_not_in_step_and_stays_no_fault(tmp_path: Path) -> None:
    """All that must be there is there."""
    scene = Delivered(tmp_path, make_rows(COUNT))
    _double(scene.server.kept)

    assert scene.count() is None
    assert scene.prove(scene.standing) == "60 rows read back from the server"
    assert scene.server.read > COUNT


@pytest.mark.parametrize(
    "line",
    [
        {"loss": -1.0, "step": 7, "_step": 30},
        {"theirs": 1.0, "_step": 30},
        {"_step": COUNT + 1},
    ],
)
def test_lines_of_others_are_not_in_step(tmp_path: Path, line: dict[str, object]) -> None:
    """Whether they look like ours or not."""
    scene = Delivered(tmp_path, make_rows(COUNT))
    scene.server.kept.append(line)

    assert scene.count() is None


def test_a_metric_of_others_in_a_line_of_ours_is_not_in_step(tmp_path: Path) -> None:
    """A line is what the journal says, and no more."""
    scene = Delivered(tmp_path, make_rows(COUNT))
    scene.server.kept[3]["theirs"] = 1.0

    assert scene.count() is None


def test_rows_that_were_sent_behind_are_looked_for_by_content(tmp_path: Path) -> None:
    """Then `_step`s tell nothing."""
    scene = Delivered(tmp_path, make_rows(COUNT))
    _lose(scene.server.kept)
    scene.ledger.segment(scene.segment.name).recheck = True
    again = scene.session()

    assert scene.deliver(again) == 1
    assert count_in_step(again, scene.pages) is None
    assert scene.prove(again) == "60 rows read back from the server"


def test_a_run_of_huge_steps_is_left_to_the_rest(tmp_path: Path) -> None:
    """No page is asked for a void."""
    rows = [Row(0, 5, 0.0, {"a": 1.0}), Row(1, 10**15, 0.0, {"a": 1.0})]
    scene = Delivered(tmp_path, rows)

    assert scene.count() is None
    assert scene.pages.asked == []


def test_a_first_step_that_is_huge_is_no_void(tmp_path: Path) -> None:
    """Others' lines may stand shortly before it."""
    scene = Delivered(tmp_path, [Row(0, 10**15, 0.0, {"a": 1.0})])

    assert scene.count() == 1
    assert scene.pages.asked == [(10**15 - 1000, 10**15 + 1)]


def test_without_pages_there_is_nothing_to_compare(tmp_path: Path) -> None:
    """As with a client that lacks them; a server may cease to show them, too."""
    scene = Delivered(tmp_path, make_rows(COUNT))
    assert count_in_step(scene.standing, NoPages(scene.server.kept)) is None

    class Ceasing(KeptPages):
        def read(
            self, first: int, end: int, *, at_least: int = 0
        ) -> list[dict[str, object]] | None:
            return None

    assert count_in_step(scene.standing, Ceasing(scene.server.kept)) is None


class Asking(Pages):
    """Pages whose answers are given."""

    def __init__(self, *answers: Any) -> None:
        super().__init__("tester/p/r")
        self.answers = list(answers)

    def _ask(self) -> Callable[..., Any]:
        def answer(query: str, variables: dict[str, Any], **_: Any) -> Any:
            told = self.answers.pop(0)
            if isinstance(told, Exception):
                raise told
            return {"project": {"run": told}}

        return answer


def test_what_the_server_answers_is_read() -> None:
    """Lines come as JSON in JSON."""
    assert Asking({"historyKeys": {"lastStep": 4}}).last_step() == 4
    assert Asking({"historyKeys": None}).last_step() == -1
    lines = ['{"a":1,"_step":0}', '{"a":"NaN","_step":1}']
    told = Asking({"history": lines}).read(0, 2)
    assert told == [{"a": 1, "_step": 0}, {"a": "NaN", "_step": 1}]
    lines = ['{"a":-Infinity,"_step":0}']  # which is no JSON
    assert Asking({"history": lines}).read(0, 1) == [{"a": -math.inf, "_step": 0}]


@pytest.mark.parametrize(
    "answer",
    [None, {}, {"history": None}, {"history": ["{"]}, {"history": ["1"]}, {"history": [{}]}],
)
def test_an_answer_that_is_none_is_no_page(answer: Any) -> None:
    """Another server may answer otherwise."""
    assert Asking(answer).read(0, 2) is None


def test_a_server_that_failed_is_not_asked_so_again() -> None:
    """The public API says what is wrong, and takes its time for it."""
    pages = Asking(OSError("gone"), {"historyKeys": {"lastStep": 4}})

    assert pages.last_step() is None
    assert pages.last_step() is None
    assert pages.read(0, 1) is None
    assert len(pages.answers) == 1


def test_a_standing_of_a_run_that_is_looked_for_by_content_is_not_in_order(tmp_path: Path) -> None:
    """Nor one that counts rows of earlier attempts."""
    scene = Delivered(tmp_path, make_rows(COUNT))
    standing: Standing = scene.standing
    assert standing.is_in_order
    standing.by_content = True

    assert not standing.is_in_order
