"""Journals that somebody, or a disk, has changed: what is wrong is named, all else is used."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.deliveries import Scene
from support.journals import make_header

from fasttrack.cli.app import cli
from fasttrack.delivery.events import LeftOut
from fasttrack.journal.entries import Config, Console, Finish, Metadata, encode
from fasttrack.journal.reader import count_rows, read_header, read_segment
from fasttrack.journal.rows import encode_row
from fasttrack.journal.run_directory import run_directory, segment_name
from fasttrack.runs.local import LocalRun
from fasttrack.runs.status import find_delivery
from fasttrack.views.report import read_report

ROWS = 6
LINES = [
    encode(make_header("ab", backends=("memory",), mode="online")),
    *(encode_row(seq, 10 * seq, 1.5 * seq, {"id": seq, "loss": 0.5}) for seq in range(ROWS)),
    encode(Console("stdout", "hello\n", 1.0)),
    encode(Config({"lr": 0.1, "nested": {"a": [1, 2]}}, 1.0)),
    encode(Metadata({"git": {"commit": "c"}}, 1.0)),
    encode(Finish(exit_code=0, time_s=9.0, deadline_s=2e9)),
]
ROW_LINES = range(1, ROWS + 1)

simple = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20)
anything = st.recursive(
    simple | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)


def as_json(value: object) -> bytes:
    """Return a value as it could stand in a journal."""
    return json.dumps(value).encode()


@st.composite
def tampered(draw: st.DrawFn) -> tuple[list[bytes], set[int]]:
    """Return the lines of a journal, and the numbers of the rows that nobody has touched."""
    lines = list(LINES)
    touched = set()
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(LINES) - 1))
        touched.add(place)
        told = orjson.loads(LINES[place])
        how = draw(st.sampled_from(("field", "lost field", "bytes", "json", "torn", "twice")))
        if how == "field":
            told[draw(st.sampled_from(sorted(told)))] = draw(anything)
            lines[place] = as_json(told) + b"\n"
        elif how == "lost field":
            del told[draw(st.sampled_from(sorted(told)))]
            lines[place] = as_json(told) + b"\n"
        elif how == "bytes":
            lines[place] = draw(st.binary(max_size=80)).replace(b"\n", b"") + b"\n"
        elif how == "json":
            lines[place] = as_json(draw(anything)) + b"\n"
        elif how == "torn":
            cut = draw(st.integers(0, len(LINES[place]) - 2))
            lines[place] = LINES[place][:cut] + b"\n"
        else:
            extra = as_json({**told, "values": {}}) if told["kind"] == "row" else b"{}"
            lines[place] = LINES[place] + extra + b"\n"
            if told["kind"] == "row":
                touched.discard(place)
    return lines, set(ROW_LINES) - touched


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)
@given(tampered())
def test_every_untouched_row_arrives_once_and_every_view_goes_on(
    journal: tuple[list[bytes], set[int]],
) -> None:
    """One wrong-typed line stopped delivery, `show` and `export` of the whole run."""
    lines, untouched = journal
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        directory = run_directory(base, "ab")
        directory.mkdir(parents=True)
        segment = directory / segment_name(1)
        segment.write_bytes(b"".join(lines))
        wanted = Counter(number - 1 for number in untouched)

        run = LocalRun(directory)
        read = [item.values.get("id") for item in run.rows()]
        assert Counter(value for value in read if value in wanted) == wanted
        report = read_report(run)
        assert json.dumps(report.as_json())
        find_delivery(run)
        assert count_rows(segment) >= len(untouched)
        for command in ("show", "export --format=csv", "export --format=json", "tail", "runs"):
            texts = [] if command == "runs" else ["ab"]
            result = CliRunner().invoke(
                cli, [*command.split(), *texts, "--dir", name], catch_exceptions=False
            )
            assert result.exit_code == 0
        assert len(report.damage) == report.bad_lines

        scene = deliver(directory, segment)
        told = [event.what for event in scene.told(LeftOut)]
        assert told == report.damage
        store = scene.destination.server
        arrived = [item.values.get("id") for item in store.rows]
        assert Counter(value for value in arrived if value in wanted) == wanted


def deliver(directory: Path, segment: Path) -> Scene:
    """Deliver a journal by hand; return what became of it."""
    scene = Scene(directory)
    scene.destinations = dict.fromkeys(("memory", "wandb", "other"), scene.destination)
    header = read_header(segment)
    known = header is None or set(header.backends) <= set(scene.destinations)
    delivered = scene.delivery_of(segment).deliver_now()
    assert delivered is True or not known
    return scene


def test_a_line_of_a_hundred_megabytes_is_passed_over_in_little_time_and_memory(
    tmp_path: Path,
) -> None:
    """Each of its pieces was joined to all before it: minutes, and it was kept whole."""
    segment = tmp_path / segment_name(1)
    with segment.open("wb") as file:
        file.write(LINES[0] + LINES[1])
        for _ in range(100):
            file.write(b"x" * 2**20)
        file.write(b"\n" + LINES[2])

    entries = read_segment(segment)

    assert len(entries) == 3
    assert count_rows(segment) == 2


@pytest.mark.parametrize("levels", [300, 900])
def test_a_configuration_that_is_nested_too_deeply_is_named(tmp_path: Path, levels: int) -> None:
    """What reads it later does so by recursion; we write 254 levels at most."""
    segment = tmp_path / segment_name(1)
    deep = b'{"a":' * levels + b"1" + b"}" * levels
    line = b'{"kind":"config","values":' + deep + b',"time":1.0}\n'
    segment.write_bytes(LINES[0] + line + LINES[1])
    run = LocalRun(tmp_path)

    assert [item.seq for item in run.rows()] == [0]
    assert [(damage.line, damage.why) for damage in run.damage] == [
        (2, "values is nested too deeply")
    ]
