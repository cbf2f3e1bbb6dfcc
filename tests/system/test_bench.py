"""`python -m bench` end to end, tiny; what it measures means nothing here."""

from __future__ import annotations

import json
import struct
import sys
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from bench.__main__ import main
from bench.compare.pictures import draw_slowdown, draw_steps
from bench.compare.report import limits, markdown
from bench.compare.rounds import DESCRIPTIONS, Result, Scenario
from bench.lib.measure import median_interval, timed_loop

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TypeAlias

    Rounds: TypeAlias = list[dict[str, Any] | None]

_PNG = b"\x89PNG\r\n\x1a\n"
_FIGURES: dict[str, Any] = {
    "steps": 1000,
    "mean_step_ms": 1.5,
    "step_p50_ms": 1.25,
    "step_p99_ms": 2.0,
    "step_p99.9_ms": 4.0,
    "call_p50_us": 3.5,
    "call_p99_us": 20.0,
    "step_tail_ms": [1.0, 1.25, 2.0, 4.0],
    "cpu_per_step_ms": 1.25,
    "other_processes_cpu_s": 0.5,
    "other_processes_peak_rss_mb": 70.0,
    "start_rss_mb": 300.0,
    "peak_rss_mb": 310.0,
    "open_s": 0.01,
    "finish_s": 0.25,
    "rows_expected": 1400,
    "rows_arrived": 1400,
}


def png_is_whole(path: Path) -> bool:
    """Return whether every chunk of a PNG is there with the right checksum."""
    data = path.read_bytes()
    position, kinds = len(_PNG), []
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if zlib.crc32(data[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            return False
        kinds.append(kind)
        position = end + 4
    return data.startswith(_PNG) and kinds[0] == b"IHDR" and kinds[-1] == b"IEND"


def result_of(**rounds: Rounds) -> Result:
    """Return a result with these figures, of as many rounds as there are."""
    count = len(next(iter(rounds.values())))
    scenario = Scenario(step_ms="1", metrics=5, steps=1000, limit_s=1.0, rounds=count)
    result = Result(scenario, list(rounds))
    result.rounds = dict(rounds)
    return result


@pytest.mark.usefixtures("quick_end")
def test_it_measures_prints_and_writes_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real processes, real wandb offline; a peer that is not installed costs one line."""
    monkeypatch.setitem(sys.modules, "trackio", None)  # as if it were not there
    keys = ("none", "fasttrack", "wandb")

    chosen = ["--quick", "--steps", "20", "--only", "fasttrack,wandb,trackio"]
    main([*chosen, "--output", str(tmp_path)])

    printed = capsys.readouterr().out
    assert printed.count("trackio") == 1
    assert "trackio: not installed, skipped" in printed
    table = (tmp_path / "results.md").read_text()
    assert table.strip() in printed
    for key in keys:
        assert table.count(f"| {DESCRIPTIONS[key]} |") == 2, table  # time, and resources
    everything = json.loads((tmp_path / "results.json").read_text())
    assert {"cpu", "cores", "memory_gb", "load", "python", "torch"} <= set(everything["machine"])
    assert everything["skipped"] == ["trackio"]
    (scenario,) = everything["scenarios"].values()
    assert scenario["failures"] == []
    for key in keys:
        (figures,) = scenario["results"][key]
        assert figures.keys() == _FIGURES.keys()
        assert figures["steps"] == 20
    assert scenario["results"]["wandb"][0]["rows_arrived"] == 40  # 20 warm the way up
    assert scenario["results"]["fasttrack"][0]["rows_arrived"] == 40
    assert png_is_whole(tmp_path / "slowdown.png")
    assert png_is_whole(tmp_path / "steps.png")


def test_lost_rows_are_said_in_the_table() -> None:
    """Nobody is fast because it lost data: the worst round counts."""
    lost = {**_FIGURES, "rows_arrived": 1000}

    text = markdown(result_of(none=[_FIGURES, _FIGURES], wandb=[_FIGURES, lost]))

    assert text.count("1,000 of 1,400") == 1
    assert text.count("| all |") == 1


def test_ratios_are_taken_within_a_round() -> None:
    """A slow round meets all ways alike."""
    slow = {**_FIGURES, "mean_step_ms": 3.0}
    slower = {**_FIGURES, "mean_step_ms": 6.0}
    other = {**_FIGURES, "mean_step_ms": 1.8}

    result = result_of(none=[slow, _FIGURES], wandb=[slower, other])

    assert result.ratios("wandb", "mean_step_ms") == [2.0, pytest.approx(1.2)]


def test_we_are_held_against_peers_of_the_same_run() -> None:
    """Round by round; beside a busy process calls are not, for it strikes where it likes."""
    dear = {**_FIGURES, "call_p50_us": 175.0, "mean_step_ms": 3.0}
    ways: dict[str, Rounds] = {"wandb": [dear], "fasttrack-training": [_FIGURES], "trackio": [dear]}
    quiet = result_of(none=[_FIGURES], fasttrack=[_FIGURES], **ways)
    busy = result_of(none=[_FIGURES], fasttrack=[_FIGURES], **ways)
    busy.scenario = replace(busy.scenario, busy=True)

    lines = limits([quiet, busy]).splitlines()[2:]

    step = "step of about 1 ms, 5 metrics per step"
    assert [line.split(" | ")[:4] for line in lines] == [
        [
            f"| `wandb.log` / our `log_training_step`, call p50, {step}",
            ">= 60x",
            "50.00x",
            "**no**",
        ],
        [f"| trackio's loop / ours, {step}", ">= 1x", "2.00x", "yes"],
        [f"| trackio's loop / ours, {step}, beside a busy process", ">= 1x", "2.00x", "yes"],
    ]
    assert limits([result_of(none=[_FIGURES], fasttrack=[_FIGURES])]) == ""


def test_a_failed_process_costs_its_round_only(tmp_path: Path) -> None:
    """The other rounds are compared, a way without any is left out, and the failure is said."""
    result = result_of(none=[_FIGURES] * 2, wandb=[None, _FIGURES], fasttrack=[None, None])
    result.failures.append("round 1: wandb: it broke")

    text = markdown(result)
    draw_slowdown(result, tmp_path / "slowdown.png")
    draw_steps(result, tmp_path / "steps.png")

    assert "Failed: round 1: wandb: it broke" in text
    assert DESCRIPTIONS["wandb"] in text
    assert DESCRIPTIONS["fasttrack"] not in text
    assert png_is_whole(tmp_path / "slowdown.png")
    assert png_is_whole(tmp_path / "steps.png")


def test_few_steps_have_no_high_percentile() -> None:
    """The slowest of a few hundred steps is not a 99.9th percentile."""
    few = {**_FIGURES, "steps": 150}

    assert "| 4.00 | 1.00 |" in markdown(result_of(none=[_FIGURES]))
    assert "| 2.00 | - | - |" in markdown(result_of(none=[few]))


@pytest.mark.parametrize(
    ("count", "low", "high"), [(3, 0, 2), (6, 0, 5), (100, 39, 60), (1500, 711, 788)]
)
def test_a_medians_interval_is_two_order_statistics(count: int, low: int, high: int) -> None:
    """Those of the binomial distribution's tables, also where 2**count is beyond a float."""
    assert median_interval(list(range(count))) == ((count - 1) / 2, low, high)


def test_a_loop_ends_at_its_time_limit() -> None:
    """A tracker that takes long is measured by fewer steps, each of them whole."""
    times = timed_loop(lambda step: step, lambda scalars, step: None, 0, 1000, limit_s=0.0)

    assert len(times.step_s) == len(times.call_s) == 1
    assert times.loop_s == pytest.approx(times.step_s[0])


def test_an_unknown_key_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The message names it."""
    with pytest.raises(SystemExit):
        main(["--only", "none,nobody"])

    assert "--only: no such key: nobody" in capsys.readouterr().err
