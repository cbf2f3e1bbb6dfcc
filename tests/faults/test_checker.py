"""The rig's own judgement: what is sabotaged on purpose must be seen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from faults import claims, processes
from faults.command import load, save
from faults.rig import Bench, Outcome, Scenario, run_one
from faults.rows import FoundRow, compare, read_journal, step_of, values_of
from faults.table import BEGIN, END, make_table, write_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_SEED = 3


def _logged(rows: int) -> list[FoundRow]:
    return [FoundRow(step_of(n), values_of(n, _SEED)) for n in range(rows)]


def test_what_arrived_as_it_was_logged_is_clean() -> None:
    """NaN and infinities, also spelled as strings, are right."""
    found = _logged(40)
    spelled = {**found[17].values, "check/odd": "NaN"}
    found[17] = FoundRow(17, spelled)

    counts = compare(range(40), found, _SEED)

    assert counts.clean
    assert counts.checked == 40


def _drop(found: list[FoundRow]) -> None:
    del found[7]


def _double(found: list[FoundRow]) -> None:
    found.insert(8, found[7])


def _change_value(found: list[FoundRow]) -> None:
    found[7] = FoundRow(7, {**found[7].values, "loss/total": 0.5})


def _lose_value(found: list[FoundRow]) -> None:
    found[7] = FoundRow(7, {k: v for k, v in found[7].values.items() if k != "check/sine"})


def _change_step(found: list[FoundRow]) -> None:
    found[7] = FoundRow(8, found[7].values)


def test_a_row_behind_a_later_one_is_seen() -> None:
    """It is whole, and late."""
    found = _logged(20)
    found[7], found[8] = found[8], found[7]

    counts = compare(range(20), found, _SEED)

    assert counts.clean
    assert counts.late == [7]


def _invent(found: list[FoundRow]) -> None:
    found.append(FoundRow(20, values_of(20, _SEED)))


def _lose_nan(found: list[FoundRow]) -> None:
    found[17] = FoundRow(17, {**found[17].values, "check/odd": None})


@pytest.mark.parametrize(
    ("sabotage", "lost", "doubled", "wrong"),
    [
        (_drop, [7], [], []),
        (_double, [], [7], []),
        (_change_value, [], [], [7]),
        (_lose_value, [], [], [7]),
        (_change_step, [], [], [7]),
        (_invent, [], [], [20]),
        (_lose_nan, [], [], [17]),
    ],
)
def test_each_kind_of_damage_is_seen(
    sabotage: Callable[[list[FoundRow]], None],
    lost: list[int],
    doubled: list[int],
    wrong: list[int],
) -> None:
    """One row dropped, doubled, changed, moved or invented is named, and nothing else."""
    found = _logged(20)
    sabotage(found)

    counts = compare(range(20), found, _SEED)

    assert (counts.lost, counts.doubled, counts.wrong) == (lost, doubled, wrong)


def test_values_differ_from_row_to_row_and_seed_to_seed() -> None:
    """A value that arrives under another row's id cannot be right by chance."""
    seen = {
        (seed, n): values_of(n, seed)["check/sine"]
        for seed in range(3)
        for n in range(0, 90)
        if n % 10 != 9
    }

    assert len(set(seen.values())) == len(seen)
    assert math.isnan(values_of(17, 0)["check/odd"])


def test_the_journal_is_read_past_damaged_lines(tmp_path: Path) -> None:
    """Other lines, damaged lines and a torn tail are left out."""
    whole = '{"kind":"row","seq":0,"step":4,"values":{"row/id":4,"loss/total":1.0}}\n'
    (tmp_path / "segment-0001.jsonl").write_text(
        f'{{"kind":"header"}}\nx{whole}[]\n{whole}{whole[:9]}'
    )

    (row,) = read_journal(tmp_path)

    assert (row.id, row.step) == (4, 4)


def _train_and_sabotage(sabotage: Callable[[dict[int, str]], None]) -> Callable[[Bench], None]:
    """Return an act: a run without faults, whose history at the server is sabotaged at its end."""

    def act(bench: Bench) -> None:
        trainer = bench.train()
        assert trainer.await_end() == 0
        assert trainer.run_id is not None
        sabotage(bench.server.runs[trainer.run_id].streams["wandb-history.jsonl"])

    return act


def _nothing(lines: dict[int, str]) -> None:
    pass


def _drop_line(lines: dict[int, str]) -> None:
    del lines[20]


def _double_line(lines: dict[int, str]) -> None:
    lines[1000] = lines[20]


def _change_line(lines: dict[int, str]) -> None:
    assert '"step":20' in lines[20].replace(" ", "")
    lines[20] = lines[20].replace("check/sine", "check/cosine")


@pytest.mark.server
@pytest.mark.parametrize(
    ("sabotage", "expected"),
    [
        (_nothing, (0, 0, 0)),
        (_drop_line, (1, 0, 0)),
        (_double_line, (0, 1, 1)),
        (_change_line, (0, 0, 1)),
    ],
)
def test_a_sabotaged_server_is_seen(
    sabotage: Callable[[dict[int, str]], None], expected: tuple[int, int, int]
) -> None:
    """A real run whose history is damaged at the server: counted, and what was said is wrong."""
    scenario = Scenario("sabotage", "checker", _train_and_sabotage(sabotage), "", rows=60)

    outcome = run_one(scenario, _SEED)

    assert (outcome.lost, outcome.doubled, outcome.wrong) == expected, outcome.remarks
    assert outcome.rows == 60
    assert outcome.hung == 0, outcome.remarks
    assert (outcome.said_wrongly > 0) == (expected != (0, 0, 0)), outcome.remarks


def _leave_a_process(bench: Bench) -> None:
    trainer = bench.train(hold=str(bench.base / "never"))
    trainer.await_note("holding")
    raise processes.HungError("a test")


@pytest.mark.server
def test_what_hangs_is_counted_named_and_killed() -> None:
    """No process of a run is left behind by the rig itself."""
    seen: list[str] = []

    def act(bench: Bench) -> None:
        seen.append(bench.mark)
        _leave_a_process(bench)

    outcome = run_one(Scenario("hang", "checker", act, "", rows=5), 0)

    assert outcome.hung == 1
    assert any("trainer" in remark for remark in outcome.remarks)
    assert processes.find(seen[0]) == []


def test_lost_rows_are_counted_from_the_trainers_words() -> None:
    """The largest number that it said."""
    assert claims.said_lost("3 rows were lost; x\n[ExperimentTracker] 1,204 rows were lost") == 1204
    assert claims.said_lost("nothing") == 0


def test_results_of_several_processes_accumulate(tmp_path: Path) -> None:
    """What is in the file already stays; the newest of a seed counts."""
    path = tmp_path / "results.json"
    save({"a": {"0": {"lost": 1}}}, path)
    save({"a": {"1": {"lost": 0}}, "b": {"0": {"lost": 0}}}, path)
    save({"a": {"0": {"lost": 0}}}, path)

    assert load(path) == {"a": {"0": {"lost": 0}, "1": {"lost": 0}}, "b": {"0": {"lost": 0}}}


def test_the_table_sums_over_seeds(tmp_path: Path) -> None:
    """It stands between its marks; what was skipped counts for nothing."""
    from dataclasses import asdict

    name = "kill-core-training"
    outcomes = [
        Outcome(name, 0, rows=1000, lost=1, recovery_s=2.0),
        Outcome(name, 1, rows=300, said_wrongly=1, recovery_s=1.0),
        Outcome(name, 2, rows=9, skipped="no"),
    ]
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")

    write_table(readme, {name: {str(o.seed): asdict(o) for o in outcomes}})

    line = f"| `{name}` | 2 | 1,300 | 1 | 0 | 0 | 0 | 0 | 1 | 2.0 |"
    text = readme.read_text()
    assert line in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert make_table({}).count("\n") == 1
