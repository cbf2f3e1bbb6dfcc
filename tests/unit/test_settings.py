"""What a run's settings are: arguments, environment, defaults, and what is refused before a run."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support.journals import read_headers
from support.runs import TAGS, make_tracker, wait_until
from support.trackers import Trackers, journal_only

from fasttrack import ConfigurationError, DirectoryError, ExperimentTracker, FasttrackError, Options
from fasttrack.journal.entries import Header
from fasttrack.settings import (
    RunSettings,
    resolve_backends,
    resolve_base_dir,
    resolve_entity,
    resolve_mode,
    resolve_project,
    resolve_settings,
)


def resolve(**arguments: Any) -> RunSettings:
    """Return the settings that the tracker makes of `arguments`."""
    defaults: dict[str, Any] = {
        "project": "vla-lego",
        "config": None,
        "tags": TAGS,
        "name": None,
        "resume_id": None,
        "mode": None,
        "entity": None,
        "enabled": True,
        "log_interval": 10,
        "gpu_stats_interval": 50,
        "group": None,
        "notes": None,
        "required_tags": None,
        "options": None,
    }
    return resolve_settings(**{**defaults, **arguments})


def written_files(base: Path) -> list[Path]:
    """Return what a tracker has made under `base`."""
    return [path for path in base.rglob("*") if path.name != "home"]


def header(tracker: ExperimentTracker) -> Header:
    """Return the header of the tracker's newest segment."""
    run_dir = tracker.get_run_dir()
    assert run_dir is not None
    return read_headers(run_dir)[-1]


# --- what the constructor refuses -----------------------------------------------------------------


class Config:
    """A configuration that is no mapping."""

    def __init__(self) -> None:
        """Have an attribute."""
        self.lr = 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": {"console": False}}, r"options must be fasttrack\.Options, not \{"),
        ({"options": Options}, r"options must be fasttrack\.Options, not <class"),
        ({"mode": "onlin"}, "mode must be one of online, offline, disabled, not 'onlin'"),
        ({"project": "a/b"}, "project 'a/b' holds /"),
        ({"project": ""}, "project must be a non-empty string, not ''"),
        ({"project": 5}, "project must be a non-empty string, not 5"),
        ({"log_interval": 0}, "log_interval must be an integer of at least 1, not 0"),
        ({"log_interval": -10}, "log_interval .* not -10"),
        ({"log_interval": 2.5}, r"log_interval .* not 2\.5"),
        ({"log_interval": None}, "log_interval .* not None"),
        ({"log_interval": True}, "log_interval .* not True"),
        ({"gpu_stats_interval": 0}, "gpu_stats_interval .* not 0"),
        ({"gpu_stats_interval": -1}, "gpu_stats_interval .* not -1"),
        ({"gpu_stats_interval": "50"}, "gpu_stats_interval .* not '50'"),
        ({"name": 5}, "name must be a string, not 5"),
        ({"entity": ["team"]}, "entity must be a string"),
        ({"group": 1}, "group must be a string, not 1"),
        ({"notes": b"x"}, "notes must be a string, not b'x'"),
        ({"config": [("lr", 0.1)]}, "config must be a mapping such as a dict, .* not list$"),
        ({"config": "lr=0.1"}, "config must be a mapping such as a dict, .* not str$"),
        ({"config": Config()}, "config must be a mapping .* not Config$"),
        ({"tags": ["model:eo1"]}, "tags must be a mapping such as a dict, not list"),
        ({"tags": "eo1"}, "tags must be a mapping such as a dict, not str"),
        ({"tags": {1: "x"}}, "tags must map strings .* not 1 to 'x'"),
        ({"tags": {**TAGS, "note": None}}, "tags must map strings .* not 'note' to None"),
        ({"tags": {**TAGS, "note": ""}}, "tags must map strings .* not 'note' to ''"),
        ({"tags": {**TAGS, "note": ["x"]}}, r"tags must map strings .* not 'note' to \['x'\]"),
        ({"tags": {**TAGS, "note": "x" * 60}}, "tag 'note:x{60}' is longer than W&B's 64"),
        ({"tags": {}}, "tags lacks model, dataset, objective, experiment_group"),
        ({"tags": None, "required_tags": ("site",)}, "tags lacks site;"),
        (
            {"options": Options(backends=("wandb", "wandbb"))},
            "no backend 'wandbb'; known are wandb",
        ),
        ({"options": Options(backends=())}, "Options.backends must name each backend once"),
        ({"options": Options(backends=("wandb", "wandb"))}, "must name each backend once"),
        ({"options": Options(backends=("wandb", "none"))}, "'none' stands alone"),
        ({"tags": {"model": "eo1"}}, "tags lacks dataset, objective, experiment_group; pass them"),
        ({"required_tags": ("seed", "model", "site")}, "tags lacks seed, site;"),
        ({"resume_id": "ab12", "tags": {"model": "m"}}, "tags lacks dataset"),
        *[
            ({"resume_id": bad}, "resume_id .* is no run id .* pass what get_run_id")
            for bad in (
                "",
                ".",
                "..",
                "../x",
                "a/b",
                "/tmp/x",
                "a\\b",
                "a b",
                "a\n",
                "a\0",
                "-x",
                5,
            )
        ],
        ({"resume_id": "x" * 129}, "resume_id .* is no run id"),
    ],
)
def test_bad_argument_is_refused_by_name_before_anything_is_made(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    """The message names the argument and the fix; no file, thread or process is left."""
    threads = threading.enumerate()

    with pytest.raises(ConfigurationError, match=message):
        make_tracker(**arguments)

    assert written_files(tmp_path) == []
    assert threading.enumerate() == threads


def test_missing_tags_are_named_together_with_their_fix() -> None:
    """One error for all of them, with a line to paste."""
    with pytest.raises(ConfigurationError) as caught:
        make_tracker(tags={"objective": "ar"})

    assert str(caught.value) == (
        "tags lacks model, dataset, experiment_group; pass them, e.g. "
        "tags={'model': ..., 'dataset': ..., 'experiment_group': ...}, or other required_tags"
    )


@pytest.mark.parametrize("arguments", [{"enabled": False}, {"mode": "disabled"}])
def test_wrong_types_are_refused_by_a_disabled_tracker_too(arguments: dict[str, Any]) -> None:
    """A typo must not wait for the day on which tracking is switched on."""
    bads: list[dict[str, Any]] = [
        {"log_interval": 0},
        {"config": 5},
        {"tags": 5},
        {"options": 5},
        {"project": ""},
        {"options": Options(backends=("nowhere",))},
    ]
    for bad in bads:
        with pytest.raises(ConfigurationError):
            make_tracker(**arguments, **bad)


@pytest.mark.parametrize("arguments", [{"tags": {}}, {"log_interval": 0}, {"resume_id": "a/b"}])
def test_every_rank_refuses_what_the_main_one_refuses(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]
) -> None:
    """All ranks stop at once, instead of waiting in a collective for one that died."""
    monkeypatch.setenv("RANK", "3")

    with pytest.raises(ConfigurationError):
        make_tracker(**arguments)


@pytest.mark.parametrize("blocked", ["", "wandb", "wandb/fasttrack"])
def test_file_in_the_way_of_the_run_directory_is_a_directory_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocked: str
) -> None:
    """The error names the directory, the reason and the variable that moves it."""
    base = tmp_path / "base"
    in_the_way = base / blocked
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.write_text("a file")
    monkeypatch.setenv("WANDB_DIR", str(base))
    threads = threading.enumerate()

    with pytest.raises(DirectoryError, match=f"cannot write .*{base}.*set WANDB_DIR") as caught:
        make_tracker()

    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value.__cause__, OSError)
    assert threading.enumerate() == threads


def test_interpreter_that_cannot_be_started_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python is embedded, `sys.executable` may be anything; the thread needs none."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    threads = threading.enumerate()

    with pytest.raises(FasttrackError, match=r"'/nowhere/python'.*Options\(delivery='thread'\)"):
        make_tracker()

    # What listened for SIGTERM ends by itself, as an earlier test's threads do.
    wait_until(lambda: set(threading.enumerate()) <= set(threads))


def test_required_tags_must_not_be_a_string() -> None:
    """`required_tags="model"` is missing a comma, not the tags m, o, d, e and l."""
    with pytest.raises(ConfigurationError, match="required_tags must"):
        make_tracker(required_tags="model")


@pytest.mark.parametrize(
    "arguments",
    [
        {"notes": "caf\udce9"},
        {"config": {"path": "caf\udce9"}},
        {"name": "caf\udce9"},
        {"tags": {**TAGS, "data": "caf\udce9"}},
    ],
    ids=str,
)
def test_text_that_is_not_unicode_starts_a_run_all_the_same(
    make: Trackers, arguments: dict[str, Any]
) -> None:
    """Names of files that are not UTF-8 come as lone surrogates (PEP 383)."""
    assert make(**arguments).is_active()


def test_command_line_that_is_not_unicode_starts_a_run_all_the_same(
    make: Trackers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user has not even passed it to us."""
    monkeypatch.setattr(sys, "argv", ["train.py", "--data", "caf\udce9"])

    assert make().is_active()


def test_deleted_working_directory_is_no_matter_where_wandb_dir_is_set(
    make: Trackers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster cleans scratch directories under running jobs."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert make().is_active()


# --- what the constructor takes -------------------------------------------------------------------


def test_arguments_reach_the_journal_header(
    make: Trackers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header is all that delivery knows of the run."""
    monkeypatch.setenv("WANDB_ENTITY", "variable")
    monkeypatch.setattr(sys, "argv", ["train.py", "--hf_token=s3cr3t"])

    tracker = make(
        project="p",
        entity="argument",
        name="my run",
        notes="ü",
        config={"lr": 0.1, "api_key": "s3cr3t", "nan": math.nan},
        tags={**TAGS, "seed": 3},
    )

    written = header(tracker)
    expected = {
        "project": "p",
        "entity": "argument",
        "name": "my run",
        "notes": "ü",
        "config": {"lr": 0.1, "api_key": "[redacted]", "nan": "nan"},
        "tags": (*(f"{key}:{value}" for key, value in TAGS.items()), "seed:3"),
        "group": "baseline",
        "mode": "offline",
        "resumed": False,
        "run_id": tracker.get_run_id(),
        "argv": ("train.py", "--hf_token=[redacted]"),
        "pid": os.getpid(),
        "attempt": 1,
        "backends": (),
    }
    assert {key: getattr(written, key) for key in expected} == expected
    run_dir = tracker.get_run_dir()
    assert run_dir is not None
    assert "s3cr3t" not in "".join(path.read_text() for path in run_dir.glob("segment-*"))


def test_api_key_of_the_environment_reaches_no_file(
    make: Trackers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Environment variables are not recorded."""
    monkeypatch.setenv("WANDB_API_KEY", "s3cr3t" * 8)

    make().finish()

    files = [path for path in written_files(tmp_path) if path.is_file()]
    assert files
    assert [path for path in files if b"s3cr3t" in path.read_bytes()] == []


def test_group_argument_beats_the_experiment_group(make: Trackers) -> None:
    """The tag is only the default."""
    assert header(make(group="mine")).group == "mine"


def test_other_required_tags_may_be_asked_for() -> None:
    """A project has its own rules; none at all is one of them."""
    few = resolve(required_tags=("site",), tags={"site": "gilbreth"})
    none = resolve(required_tags=(), tags={})

    assert few.tags == {"site": "gilbreth"}
    assert none.tags == {}


def test_resume_without_tags_goes_on_with_the_same_run(make: Trackers) -> None:
    """As the guide shows: only `resume_id` from the checkpoint."""
    first = make()
    first.finish()

    second = make(resume_id=first.get_run_id(), tags=None)

    written = header(second)
    assert second.get_run_id() == first.get_run_id()
    assert (written.attempt, written.resumed, written.tags) == (2, True, None)


def test_run_id_may_be_of_the_users_own_making(make: Trackers) -> None:
    """Letters, digits, `_`, `-` and `.`, up to 128."""
    for run_id in ("Job_123-a.b", "0", "x" * 128):
        assert make(resume_id=run_id, tags=None).get_run_id() == run_id


def test_numbers_are_taken_for_tag_values(make: Trackers) -> None:
    """`"seed": 3` need not be quoted; 64 characters are not too many."""
    longest = "x" * (64 - len("note:"))

    tracker = make(tags={**TAGS, "seed": 3, "lr": 0.5, "note": longest})

    assert (header(tracker).tags or ())[-3:] == ("seed:3", "lr:0.5", f"note:{longest}")


# --- tags and names -------------------------------------------------------------------------------


def test_first_run_needs_no_tags() -> None:
    """It is named from project, date and time; a commit follows where there is one."""
    settings = resolve(project="x", tags=None)

    began = datetime.fromtimestamp(settings.began_s)
    assert settings.tags == {}
    assert settings.group is None
    assert str(settings.name).startswith(f"x_{began:%Y%m%d_%H%M%S}")


def test_tags_name_the_run_as_specified() -> None:
    """`{model}_{objective}_{dataset}_{YYYYMMDD}_{HHMMSS}_{commit}`."""
    settings = resolve()

    began = datetime.fromtimestamp(settings.began_s)
    assert str(settings.name).startswith(f"eo1_ar+fm_lego_{began:%Y%m%d_%H%M%S}")


def test_a_name_that_is_given_or_a_run_that_has_one_gets_no_other() -> None:
    """A resumed run was named when it began."""
    assert resolve(name="mine").name == "mine"
    assert resolve(resume_id="ab12", tags=None).name is None


def test_a_teams_rule_holds_even_where_no_tags_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable; all that miss stand in it."""
    monkeypatch.setenv("FASTTRACK_REQUIRED_TAGS", "model, site")

    with pytest.raises(ConfigurationError) as caught:
        resolve(tags=None)
    with pytest.raises(ConfigurationError, match="tags lacks site, which FASTTRACK_REQUIRED_TAGS"):
        resolve(tags=TAGS)

    assert str(caught.value) == (
        "tags lacks model, site, which FASTTRACK_REQUIRED_TAGS requires; pass them, e.g. "
        "tags={'model': ..., 'site': ...}, or other required_tags"
    )


def test_a_teams_rule_replaces_the_four_and_the_argument_replaces_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Argument, then environment, then default, as everywhere."""
    monkeypatch.setenv("FASTTRACK_REQUIRED_TAGS", "site")

    assert resolve(tags={"site": "gilbreth"}).tags == {"site": "gilbreth"}
    assert resolve(tags=None, required_tags=()).tags == {}
    with pytest.raises(ConfigurationError, match="tags lacks team;"):
        resolve(tags={"site": "gilbreth"}, required_tags=("team",))


@pytest.mark.parametrize("variable", ["", " ", ","])
def test_an_empty_rule_is_none(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """As with the other variables: set to nothing is not set."""
    monkeypatch.setenv("FASTTRACK_REQUIRED_TAGS", variable)

    assert resolve(tags=None).tags == {}
    with pytest.raises(ConfigurationError, match="tags lacks model, dataset"):
        resolve(tags={})


@pytest.mark.parametrize("rule", ["FASTTRACK_REQUIRED_TAGS", "required_tags"])
def test_a_run_that_is_resumed_without_tags_has_its_own(
    monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    """Whatever requires them: they were checked when it began."""
    if rule == "FASTTRACK_REQUIRED_TAGS":
        monkeypatch.setenv(rule, "model")
    required = ("model",) if rule == "required_tags" else None

    assert resolve(resume_id="ab12", tags=None, required_tags=required).tags == {}
    with pytest.raises(ConfigurationError, match="tags lacks model"):
        resolve(resume_id="ab12", tags={}, required_tags=required)


# --- one value ------------------------------------------------------------------------------------


def test_settings_are_frozen() -> None:
    """Resolved once; nobody changes them afterwards."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve().project = "y"  # type: ignore[misc]


def test_a_process_that_does_not_record_has_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an id of its own, nor a name, nor a copy of the configuration."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")

    settings = resolve(config={"lr": 0.1})

    assert (settings.records, settings.run_id, settings.name) == (False, None, None)
    assert (settings.config, settings.world_size) == ({}, 2)


def test_nested_configuration_keeps_its_nesting() -> None:
    """W&B shows it as `model.layers`; JSON and YAML hold it as it was."""
    assert resolve(config={"model": {"layers": 2}}).config == {"model": {"layers": 2}}


def test_deleted_working_directory_is_a_directory_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be written there; the variable that helps is named."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.delenv("WANDB_DIR")

    with pytest.raises(DirectoryError, match="set WANDB_DIR"):
        make_tracker(options=journal_only())


# --- environment ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "variable", "backends"),
    [
        (None, None, ("wandb",)),
        (None, "", ("wandb",)),
        (None, "none", ()),
        (None, " tensorboard , wandb ", ("tensorboard", "wandb")),
        (("tensorboard",), "none", ("tensorboard",)),
        (("none",), "nonsense", ()),
    ],
)
def test_backends_are_argument_then_variable_then_wandb(
    monkeypatch: pytest.MonkeyPatch,
    argument: tuple[str, ...] | None,
    variable: str | None,
    backends: tuple[str, ...],
) -> None:
    """Arguments beat FASTTRACK_BACKENDS; "none" is none."""
    if variable is not None:
        monkeypatch.setenv("FASTTRACK_BACKENDS", variable)

    assert resolve_backends(argument) == backends


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("wandbb", r"^FASTTRACK_BACKENDS: no backend 'wandbb'; known are wandb,.*, none$"),
        ("wandb,none", r"^FASTTRACK_BACKENDS: 'none' stands alone"),
        ("wandb,wandb", r"^FASTTRACK_BACKENDS must name each backend once"),
    ],
)
def test_wrong_backends_in_the_environment_name_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, message: str
) -> None:
    """As with WANDB_MODE."""
    monkeypatch.setenv("FASTTRACK_BACKENDS", variable)

    with pytest.raises(ConfigurationError, match=message):
        resolve()


@pytest.mark.parametrize(
    ("enabled", "argument", "variable", "mode"),
    [
        (True, None, None, "online"),
        (True, None, "", "online"),
        (True, None, "offline", "offline"),
        (True, None, "disabled", "disabled"),
        (True, "online", "disabled", "online"),
        (True, "offline", "nonsense", "offline"),
        (False, "online", "online", "disabled"),
        (False, "nonsense", "nonsense", "disabled"),
    ],
)
def test_mode_is_enabled_then_argument_then_variable_then_online(
    monkeypatch: pytest.MonkeyPatch,
    enabled: bool,
    argument: str | None,
    variable: str | None,
    mode: str,
) -> None:
    """Arguments beat WANDB_MODE; `enabled=False` beats both."""
    if variable is not None:
        monkeypatch.setenv("WANDB_MODE", variable)

    assert resolve_mode(argument, enabled) == mode


@pytest.mark.parametrize("mode", ["", "dryrun", "ONLINE", "off"])
def test_unknown_mode_argument_is_refused(mode: str) -> None:
    """Naming the argument and the choices."""
    with pytest.raises(ConfigurationError, match=r"^mode must be one of online, offline, disabled"):
        resolve_mode(mode, True)


def test_unknown_mode_in_the_environment_names_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The user looks for the fault where it is."""
    monkeypatch.setenv("WANDB_MODE", "onlin")

    with pytest.raises(ConfigurationError, match=r"^WANDB_MODE must be .*'onlin'"):
        resolve_mode(None, True)


@pytest.mark.parametrize(
    ("argument", "variable", "project"),
    [
        (None, None, "vla-lego"),
        (None, "", "vla-lego"),
        (None, "theirs", "theirs"),
        ("mine", "theirs", "mine"),
        ("mine", "bad/name", "mine"),
        ("x" * 128, None, "x" * 128),
        ("ünïcode & spaces", None, "ünïcode & spaces"),
    ],
)
def test_project_is_argument_then_variable_then_default(
    monkeypatch: pytest.MonkeyPatch, argument: str | None, variable: str | None, project: str
) -> None:
    """Arguments beat WANDB_PROJECT."""
    if variable is not None:
        monkeypatch.setenv("WANDB_PROJECT", variable)

    assert resolve_project(argument) == project


@pytest.mark.parametrize("character", "/\\#?%:")
def test_character_that_wandb_refuses_is_named(character: str) -> None:
    """W&B would refuse the project minutes later, in another process."""
    with pytest.raises(ConfigurationError) as caught:
        resolve_project(f"a{character}b")

    assert f"holds {character};" in str(caught.value)


@pytest.mark.parametrize("project", ["", "  ", 5, b"bytes", Path("p")])
def test_project_that_is_no_name_is_refused(project: Any) -> None:
    """Empty, or not a string."""
    with pytest.raises(ConfigurationError, match=r"^project must be a non-empty string"):
        resolve_project(project)


def test_project_that_is_too_long_is_refused_with_its_length() -> None:
    """W&B's limit is 128 characters."""
    with pytest.raises(ConfigurationError, match="has 129 characters"):
        resolve_project("x" * 129)


@pytest.mark.parametrize("project", ["a/b", " "])
def test_bad_project_in_the_environment_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, project: str
) -> None:
    """As with WANDB_MODE."""
    monkeypatch.setenv("WANDB_PROJECT", project)

    with pytest.raises(ConfigurationError, match="WANDB_PROJECT"):
        resolve_project(None)


@pytest.mark.parametrize(
    ("argument", "variable", "entity"),
    [(None, None, None), (None, "", None), (None, "team", "team"), ("me", "team", "me")],
)
def test_entity_is_argument_then_variable_then_none(
    monkeypatch: pytest.MonkeyPatch, argument: str | None, variable: str | None, entity: str | None
) -> None:
    """None lets W&B take the account's own."""
    if variable is not None:
        monkeypatch.setenv("WANDB_ENTITY", variable)

    assert resolve_entity(argument) == entity


def test_base_directory_is_absolute_whatever_the_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that changes its directory later must not split its run."""
    found = []
    for value in (str(tmp_path / "elsewhere"), "relative", "", None):
        if value is None:
            monkeypatch.delenv("WANDB_DIR")
        else:
            monkeypatch.setenv("WANDB_DIR", value)
        found.append(resolve_base_dir())

    here = Path(os.getcwd())
    assert found == [tmp_path / "elsewhere", here / "relative", here, here]


# --- what W&B's client and its agents know --------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({"WANDB_DISABLED": "true"}, "disabled"),
        ({"WANDB_DISABLED": "1", "WANDB_MODE": "online"}, "disabled"),
        ({"WANDB_DISABLED": "false"}, "online"),
        ({"WANDB_DISABLED": ""}, "online"),
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": "run"}, "online"),
    ],
)
def test_the_clients_older_words_for_the_mode_are_known(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], mode: str
) -> None:
    """Scripts of years ago set them; a mode that is passed beats them all."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert resolve_mode(None, True) == mode
    assert resolve_mode("offline", True) == "offline"


@pytest.mark.parametrize(
    ("argument", "variable", "captured"),
    [
        (None, None, True),
        (None, "off", False),
        (None, "wrap", True),
        (None, "redirect", True),
        (True, "off", True),
        (False, "wrap", False),
    ],
)
def test_console_is_argument_then_variable_then_captured(
    monkeypatch: pytest.MonkeyPatch,
    argument: bool | None,
    variable: str | None,
    captured: bool,
) -> None:
    """WANDB_CONSOLE=off is how the client is told to leave it alone."""
    if variable is not None:
        monkeypatch.setenv("WANDB_CONSOLE", variable)

    assert resolve(options=Options(console=argument)).console is captured


def test_unknown_console_in_the_environment_names_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`WANDB_CONSOLE=no` is no word of the client's."""
    monkeypatch.setenv("WANDB_CONSOLE", "no")

    with pytest.raises(ConfigurationError, match=r"^WANDB_CONSOLE must be one of .*'no'"):
        resolve()


def test_name_group_and_notes_are_argument_then_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the client."""
    for name in ("WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_NOTES"):
        monkeypatch.setenv(name, f"by-{name}")

    by_variable, by_argument = resolve(), resolve(name="n", group="g", notes="o")

    assert (by_variable.name, by_variable.group, by_variable.notes) == (
        "by-WANDB_NAME",
        "by-WANDB_RUN_GROUP",
        "by-WANDB_NOTES",
    )
    assert (by_argument.name, by_argument.group, by_argument.notes) == ("n", "g", "o")


def test_run_id_is_argument_then_variable_then_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """WANDB_RUN_ID is how a launcher names the run, on every rank; a new run of it gets a name."""
    new = resolve()
    monkeypatch.setenv("WANDB_RUN_ID", "from-the-launcher")
    given = resolve()
    asked = resolve(resume_id="mine")
    monkeypatch.setenv("RANK", "1")
    other = resolve()

    assert (new.run_id, new.resumed) != ("from-the-launcher", True)
    assert (given.run_id, given.resumed, given.sweep_id) == ("from-the-launcher", True, None)
    assert given.name is not None
    assert asked.run_id == "mine"
    assert (other.records, other.run_id) == (False, "from-the-launcher")


def test_run_of_the_variable_keeps_its_name_when_the_job_is_requeued(
    monkeypatch: pytest.MonkeyPatch, make: Trackers
) -> None:
    """The second attempt goes on with the run: it is not renamed."""
    monkeypatch.setenv("WANDB_RUN_ID", "job-17")
    first = make()
    first.finish()
    second = make()

    assert second.get_run_id() == "job-17"
    assert second.get_run_name() == first.get_run_name() is not None


def test_wrong_run_id_in_the_environment_names_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would name a directory, too."""
    monkeypatch.setenv("WANDB_RUN_ID", "../x")

    with pytest.raises(ConfigurationError, match=r"^WANDB_RUN_ID '\.\./x' is no run id"):
        resolve()


def as_trial(monkeypatch: pytest.MonkeyPatch, parameters: Path | None = None) -> None:
    """Make this process look like what a sweep's agent starts."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "trial1")
    monkeypatch.setenv("WANDB_PROJECT", "of-the-sweep")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    if parameters is not None:
        monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(parameters))


def test_trial_of_a_sweep_has_the_agents_run_project_and_parameters(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The client files its rows there whatever it is told, so that is what we say, too."""
    file = tmp_path / "config.yaml"
    file.write_text("wandb_version: 1\n\nlr:\n  value: 0.5\nnet:\n  value: {depth: 3}\n")
    as_trial(monkeypatch, file)

    settings = resolve(project="mine", entity="me", config={"lr": 0.1, "seed": 1})

    assert (settings.run_id, settings.sweep_id) == ("trial1", "sweep1")
    assert (settings.project, settings.entity) == ("of-the-sweep", "team")
    assert settings.config == {"lr": 0.5, "seed": 1, "net": {"depth": 3}}


def test_trial_that_would_go_on_with_another_run_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its rows would go to the trial's run, and `get_run_id()` say otherwise."""
    as_trial(monkeypatch)

    with pytest.raises(ConfigurationError, match=r"resume_id 'other'.*'trial1'.*WANDB_SWEEP_ID"):
        resolve(resume_id="other")
    assert resolve(resume_id="trial1").run_id == "trial1"


@pytest.mark.parametrize("content", [None, "- no\n- mapping\n", "a: [1\n"])
def test_parameters_that_cannot_be_read_are_said_and_do_not_stop_a_trial(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
) -> None:
    """They usually come by the command line, too."""
    file = tmp_path / "config.yaml"
    if content is not None:
        file.write_text(content)
    as_trial(monkeypatch, file)

    assert resolve(config={"a": 1}).config == {"a": 1}
    assert "WANDB_SWEEP_PARAM_PATH" in capsys.readouterr().err


def test_sweep_without_a_run_id_makes_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent's own process has the sweep only."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")

    assert resolve().sweep_id is None


# --- secrets --------------------------------------------------------------------------------------


def test_notes_name_group_and_tags_are_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is shown on the run's page."""
    monkeypatch.setenv("HF_TOKEN", secret := "hf-0123456789")

    settings = resolve(
        tags={**TAGS, "hub": secret, "api_key": "x1y2"},
        notes=f"pulled with {secret}",
        name=f"run {secret}",
        group=f"password=s3cr3t {secret}",
    )

    assert settings.tags == {**TAGS, "hub": "[redacted]", "api_key": "[redacted]"}
    assert settings.notes == "pulled with [redacted]"
    assert settings.name == "run [redacted]"
    assert settings.group == "password=[redacted] [redacted]"
