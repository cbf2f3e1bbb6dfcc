"""The journal's lines as values: what is written, what is read, and what is no line of ours."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasttrack.journal.entries import (
    FORMAT_VERSION,
    Artifact,
    Config,
    Console,
    Finish,
    Header,
    Metadata,
    Recorded,
    Unknown,
    Unlogged,
    decode,
    encode,
    merge_headers,
)
from fasttrack.journal.rows import (
    Row,
    count_row_lines,
    encode_row,
    encode_rows,
    is_row,
    spell_non_finite,
)

HEADER = Header(
    version=FORMAT_VERSION,
    run_id="ab12",
    attempt=3,
    resumed=True,
    project="vla-lego",
    entity="team",
    name="a name",
    tags=("model:eo1", "dataset:lego"),
    group="baseline",
    notes="free text",
    config={"lr": 0.1, "layers": [1, 2], "nested": {"none": None}},
    mode="offline",
    backends=("wandb", "memory"),
    time_s=1.5,
    world_size=8,
    console=False,
    finish_timeout_s=5,
    upload_timeout_s=6.5,
    online_timeout_s=7.5,
    hang_timeout_s=8.5,
    pid=42,
    host="node1",
    executable="/usr/bin/python3",
    argv=("train.py", "--lr", "0.1"),
    program="/home/user/train.py",
    program_relpath="train.py",
    cwd="/home/user",
)
FINISH = Finish(exit_code=143, preempting=True, time_s=2.0, deadline_s=9.0, last_step=7)
UNLOGGED = Unlogged(steps=3, first_s=1.5, last_s=2.5, trained_s=0.75, pause_s=0.25, time_s=3.0)
ARTIFACT = Artifact(
    number=2,
    type="model",
    name="model-ab12",
    aliases=("latest", "best"),
    directory="artifacts/segment-0003/0002",
    files=4,
    size_bytes=2**40,
    step=17,
    time_s=1.5,
)
ENTRIES: list[Header | Console | Recorded | Finish] = [
    HEADER,
    Header(run_id="ab12"),
    Console("stderr", "é\r\x1b[0m\n", 1.0),
    Config({"lr": 0.1}, 1.0),
    Metadata({"git": None, "seeds": {"torch": 2**63 - 1}}, 1.0),
    ARTIFACT,
    dataclasses.replace(ARTIFACT, step=None, aliases=()),
    UNLOGGED,
    FINISH,
]
NAMES = [type(entry).__name__ for entry in ENTRIES]


def read_row(line: bytes) -> Row:
    """Return the row that `line` is."""
    entry = decode(line)
    assert isinstance(entry, Row)
    return entry


def line_of(kind: str, **keys: Any) -> bytes:
    """Return a line that holds anything, written as other tools would."""
    return json.dumps({"kind": kind, **keys}).encode()


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.1, -0.0, 5, 2**63 - 1, -(2**63), 1e-320, 1.7e308, True])
def test_row_comes_back_as_it_was_written(value: float) -> None:
    """A number is the same, type and sign included, after the journal."""
    entry = decode(encode_row(3, 40, 1.25, {"a": value}))

    assert isinstance(entry, Row)
    assert entry == Row(seq=3, step=40, time_s=1.25, values={"a": value})
    assert repr(entry.values["a"]) == repr(value)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinity_comes_back_as_a_float(value: float) -> None:
    """JSON has no infinity; the journal keeps it."""
    assert read_row(encode_row(0, 0, 0.0, {"a": value, "b": 1})).values == {"a": value, "b": 1}


def test_nan_comes_back_as_a_float() -> None:
    """JSON has no NaN; the journal keeps it."""
    values = read_row(encode_row(0, 0, 0.0, {"a": math.nan, "b": 1})).values

    assert math.isnan(values["a"])
    assert values["b"] == 1


def test_non_finite_values_are_written_as_the_strings_that_json_tools_know() -> None:
    """The spelling on disk is the documented one."""
    line = encode_row(0, 0, 0.0, {"a": math.nan, "b": math.inf, "c": -math.inf})

    assert json.loads(line)["values"] == {"a": "NaN", "b": "Infinity", "c": "-Infinity"}


def test_non_finite_values_are_read_however_the_line_is_spaced() -> None:
    """A journal may have been rewritten by a tool that puts blanks behind colons."""
    line = line_of("row", seq=0, step=0, time=0.0, values={"a": "-Infinity", "b": 2})

    assert read_row(line).values == {"a": -math.inf, "b": 2}


@pytest.mark.parametrize("name", ["null", "NaN", "Infinity", "-Infinity", 'a"NaN"', "values"])
@pytest.mark.parametrize("value", [1.5, math.inf])
def test_metric_names_that_look_like_values_are_harmless(name: str, value: float) -> None:
    """A name may be any of the words that the format itself uses."""
    assert read_row(encode_row(0, 0, 0.0, {name: value})).values == {name: value}


@pytest.mark.parametrize("name", ["потеря", "loss/損失", "🙂", 'a"b\\c', "a\nb\tc", "\x00", ""])
def test_any_unicode_name_stays_on_one_line(name: str) -> None:
    """Newlines and quotes in a name cannot break the line format."""
    line = encode_row(0, 0, 0.0, {name: 1})

    assert line.count(b"\n") == 1
    assert read_row(line).values == {name: 1}


@pytest.mark.parametrize("values", [{1: 2.0}, {"a": 2**70}, {"a": object()}, {"\ud800": 1}])
def test_unrepresentable_row_is_a_type_error(values: Any) -> None:
    """What JSON cannot hold is refused, not written somehow."""
    with pytest.raises(TypeError):
        encode_row(0, 0, 0.0, values)


_NUMBERS = st.one_of(
    st.integers(-(2**63), 2**64 - 1), st.floats(), st.sampled_from([math.nan, math.inf, -0.0])
)
_NAMES = st.one_of(
    st.sampled_from([',{"kind":"row"', '":null', "null", "}\n{", "loss/total", "ü\u2028"]),
    st.text(st.characters(exclude_categories=["Cs"])),
)
_ROWS = st.lists(
    st.tuples(
        st.integers(-(2**53), 2**53),
        st.floats(0, 2e9),
        st.dictionaries(_NAMES, _NUMBERS),
    ),
    min_size=1,
    max_size=5,
)


@given(first_seq=st.integers(0, 2**40), rows=_ROWS)
def test_rows_in_one_piece_are_the_lines_of_each(first_seq: int, rows: list[Any]) -> None:
    """To the byte, whatever the names and the numbers."""
    alone = [encode_row(seq, *row) for seq, row in enumerate(rows, first_seq)]
    finite = all(math.isfinite(number) for row in rows for number in row[2].values())
    looks_so = any('":null' in name for row in rows for name in row[2])

    together = encode_rows(first_seq, rows)

    assert together == (b"".join(alone) if finite and not looks_so else None)
    assert all(line.count(b"\n") == 1 for line in alone)


@pytest.mark.parametrize("values", [{1: 2.0}, {"a": 2**70}, {"\ud800": 1}])
def test_one_unrepresentable_row_of_several_is_a_type_error(values: Any) -> None:
    """Who calls finds out which one it is."""
    with pytest.raises(TypeError):
        encode_rows(0, [(0, 0.0, {"a": 1.0}), (1, 0.0, values)])


def test_writing_a_row_leaves_the_values_as_they_were() -> None:
    """The worker may go on with its dict."""
    values = {"a": math.inf, "null": 1.0}

    encode_row(0, 0, 0.0, values)

    assert values == {"a": math.inf, "null": 1.0}


@pytest.mark.parametrize(
    "keys",
    [
        {"values": {"a": "NaN", "b": "text"}},
        {"values": {"a": "1.5"}},
        {"values": {"a": None}},
        {"values": {"a": [1]}},
        {"values": {"a": {"b": 1}}},
        {"values": ["NaN"]},
        {"values": "NaN"},
        {"values": None},
        {"step": "5"},
        {"step": 5.0},
        {"step": True},
        {"step": None},
        {"seq": "5"},
        {"time": "1.5"},
        {"time": None},
    ],
    ids=repr,
)
def test_row_with_damaged_values_is_a_value_error(keys: dict[str, Any]) -> None:
    """What is delivered is numbers; a row that is none must not stop all that are behind it."""
    whole = {"seq": 0, "step": 0, "time": 0.0, "values": {"a": 1}}
    assert decode(line_of("row", **whole))

    with pytest.raises(ValueError, match=r"."):
        decode(line_of("row", **{**whole, **keys}))


@pytest.mark.parametrize("missing", ["seq", "step", "time", "values"])
def test_row_that_lacks_a_key_is_a_value_error(missing: str) -> None:
    """It could not be placed, or says nothing."""
    whole = {"seq": 0, "step": 0, "time": 0.0, "values": {}}
    del whole[missing]

    with pytest.raises(ValueError, match=missing):
        decode(line_of("row", **whole))


def test_rows_are_told_from_other_lines_without_parsing() -> None:
    """Counting rows must not cost what reading them costs."""
    rows = [encode_row(seq, 0, 0.0, {"a": seq}) for seq in range(3)]
    others = [encode(entry) for entry in ENTRIES]
    lines = [others[0], *rows, *others[1:]]

    assert [is_row(line) for line in lines] == [line in rows for line in lines]
    assert count_row_lines(b"\n" + b"".join(lines)) == 3
    assert count_row_lines(b"\n" + encode(Console("stdout", '\n{"kind":"row"', 0.0))) == 0


# --- all other kinds ------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ENTRIES, ids=NAMES)
def test_every_kind_comes_back_as_it_was_written(entry: Any) -> None:
    """Field by field, in one line, tuples included."""
    line = encode(entry)

    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == entry
    assert type(decode(line)) is type(entry)


@pytest.mark.parametrize("entry", ENTRIES, ids=NAMES)
def test_every_line_parses_with_the_standard_library(entry: Any) -> None:
    """Nobody needs us, or orjson, to read a journal; non-standard JSON constants are not used."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    written = json.loads(encode(entry), parse_constant=refuse)

    assert written["kind"] == entry.kind
    assert next(iter(written)) == "kind"  # readers look at a line's beginning


def test_row_parses_with_the_standard_library() -> None:
    """Non-standard JSON constants are not used in rows either."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    line = encode_row(1, 2, 3.0, {"a": math.nan, "b": -math.inf, "null": 1, "ü\n": 2})

    assert json.loads(line, parse_constant=refuse)["kind"] == "row"
    assert line.startswith(b'{"kind":"row"')


def test_keys_on_disk_are_the_documented_ones() -> None:
    """Scripts with jq rely on them; times are `time` and `deadline`."""
    header, artifact, finish = (set(json.loads(encode(e))) for e in (HEADER, ARTIFACT, FINISH))

    assert header == {
        *("kind", "version", "run_id", "attempt", "resumed", "project", "entity", "name", "tags"),
        *("group", "notes", "config", "mode", "backends", "time", "world_size", "console"),
        *("finish_timeout_s", "upload_timeout_s", "online_timeout_s"),
        *("hang_timeout_s", "alerts", "pid", "host"),
        *("executable", "argv", "program", "program_relpath", "cwd", "sweep_id"),
    }
    assert artifact == {
        *("kind", "number", "type", "name", "aliases", "directory", "files", "size_bytes"),
        *("step", "time"),
    }
    assert finish == {"kind", "exit_code", "preempting", "time", "deadline", "last_step"}
    assert set(json.loads(encode(UNLOGGED))) == {
        *("kind", "steps", "first", "last", "trained", "pause", "time"),
    }


def test_keys_that_a_line_lacks_have_defaults() -> None:
    """An older version wrote it: a run of version 1 went to W&B only."""
    assert decode(line_of("header", run_id="ab12")) == Header(
        version=1, run_id="ab12", attempt=1, backends=("wandb",), mode="online", tags=None
    )
    assert decode(line_of("finish", exit_code=3)) == Finish(exit_code=3, preempting=False)


def test_keys_that_are_not_known_are_passed_over() -> None:
    """A newer version wrote it."""
    assert decode(line_of("header", run_id="ab12", invented=[1])) == Header(run_id="ab12")
    assert decode(line_of("row", seq=1, step=2, time=3.0, values={}, more=1)) == Row(1, 2, 3.0, {})


@pytest.mark.parametrize(
    "line", [b'{"kind":"summary","values":[1]}', b'{"kind":"summary"}', b'{"kind":""}']
)
def test_kinds_that_are_not_known_are_no_damage(line: bytes) -> None:
    """A newer version may write more."""
    assert decode(line) == Unknown(json.loads(line)["kind"])


def test_only_rows_have_their_strings_turned_into_numbers() -> None:
    """A console line that says "NaN" is text, and so is a configuration's value."""
    assert decode(encode(Console("stdout", "NaN", 1.0))) == Console("stdout", "NaN", 1.0)
    assert decode(encode(Config({"a": "NaN"}, 1.0))) == Config({"a": "NaN"}, 1.0)


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[1]", b"1", b'"a"', b'"kind"', b"null", b'{"a": NaN}', b"\xff", b"{}", b"[]"],
)
def test_line_that_is_no_json_object_of_a_kind_is_a_value_error(line: bytes) -> None:
    """One exception tells of every kind of damage."""
    with pytest.raises(ValueError, match=r"."):
        decode(line)


@pytest.mark.parametrize(
    "line",
    [
        line_of("header"),  # of no run
        line_of("header", run_id=5),
        line_of("header", run_id="ab12", config=[1]),
        line_of("header", run_id="ab12", tags="model:eo1"),
        line_of("header", run_id="ab12", backends=None),
        line_of("header", run_id="ab12", time="yesterday"),
        line_of("console", stream="stdout"),
        line_of("console", stream="stdout", text=None),
        line_of("config", values=[1]),
        line_of("metadata", values=None),
        line_of("artifact", number=1, type="model", name="m"),
        line_of("artifact", number="1", type="model", name="m", directory="d"),
        line_of("finish"),
        line_of("finish", exit_code="0"),
        line_of("finish", exit_code=0, deadline=None),
        line_of("finish", exit_code=0, time="yesterday"),
        b'{"kind":null}',
        b'{"kind":5}',
        b'{"kind":["row"]}',
    ],
    ids=repr,
)
def test_line_whose_fields_are_not_what_they_must_be_is_a_value_error(line: bytes) -> None:
    """Who reads a field need not ask for its type: a damaged line is none at all."""
    with pytest.raises(ValueError, match=r"."):
        decode(line)


def test_unrepresentable_entry_is_a_type_error() -> None:
    """What JSON cannot hold is refused, not written somehow."""
    with pytest.raises(TypeError):
        encode(Config({"a": object()}))


def test_entries_cannot_be_changed_or_given_new_attributes() -> None:
    """They go from thread to thread."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        FINISH.exit_code = 0  # type: ignore[misc]
    for entry in (*ENTRIES, Row(0, 0, 0.0, {}), Unknown("summary")):
        assert not hasattr(entry, "__dict__")


@pytest.mark.parametrize("values", [{}, {"git": None}, {"git": {}}])
def test_metadata_without_a_repository_has_an_empty_git(values: dict[str, Any]) -> None:
    """Who asks for a commit need not ask whether there is a repository."""
    assert Metadata(values).git == {}


def test_spelling_reaches_every_depth_and_changes_nothing_else() -> None:
    """JSON output of the commands goes through it."""
    value = {"a": [math.nan, {"b": -math.inf}], "c": (1, True, None, "NaN", 0.5, math.inf)}

    assert spell_non_finite(value) == {
        "a": ["NaN", {"b": "-Infinity"}],
        "c": [1, True, None, "NaN", 0.5, "Infinity"],
    }
    assert math.isnan(value["a"][0])  # type: ignore[arg-type]


# --- a run's headers ------------------------------------------------------------------------------


def test_no_headers_make_none() -> None:
    """All were torn."""
    assert merge_headers([]) is None


def test_a_resumed_attempt_is_completed_from_the_newest_that_says_it() -> None:
    """Name, tags, group, notes and entity describe the run, and need not be repeated."""
    first = dataclasses.replace(HEADER, attempt=1, name="first", notes="first", entity=None)
    second = dataclasses.replace(HEADER, attempt=2, name="second", tags=None, notes=None)
    third = Header(run_id="ab12", attempt=3, resumed=True, backends=(), group="new group")

    merged = merge_headers([first, second, third])

    assert merged == dataclasses.replace(
        third,
        name="second",
        tags=first.tags,
        notes="first",
        entity="team",
    )


def test_what_describes_an_attempt_is_never_taken_from_an_earlier_one() -> None:
    """Mode, backends, configuration, program are what the newest attempt says, if only little."""
    merged = merge_headers([HEADER, Header(run_id="ab12", attempt=4)])

    assert merged is not None
    assert (merged.mode, merged.backends, merged.config) == ("online", ("wandb",), {})
    assert (merged.program, merged.argv, merged.attempt) == (None, (), 4)
