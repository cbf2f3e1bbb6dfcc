"""The stand-in's runs: how they begin and end, and what they take that is no number."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.journals import read_entries
from support.runs import journal_entries, journal_rows, run_script

import fasttrack
import fasttrack.wandb as wandb
from fasttrack.errors import ConfigurationError
from fasttrack.journal.entries import Artifact, Finish, Header, Page
from fasttrack.journal.trouble import AskedAlert

if TYPE_CHECKING:
    from fasttrack.wandb.run_object import Run


def rows_of(base: Path, run: Run) -> list[dict[str, Any]]:
    """Return the values of a run's rows, by their step."""
    return [{**row.values, "step": row.step} for row in journal_rows(base, run.id) if row.values]


def test_media_are_kept_at_the_step_of_their_row_and_the_rest_of_it_is_a_row(
    tmp_path: Path,
) -> None:
    """With what scripts do to them before; nested names are dotted."""
    run = wandb.init(project="p")
    table = wandb.Table(columns=["a"], data=[[1]])
    table.add_data(3)
    table.add_column("b", [2, 4])
    for _ in range(2):
        run.log(
            {
                "loss": 0.5,
                "table": table,
                "image": wandb.Image(wandb.Image(torch.zeros(3, 4, 4)), caption="dog"),
                "examples": [wandb.Image(torch.zeros(4, 4)), wandb.Image(torch.ones(4, 4))],
                "sound": {"voice": wandb.Audio([0.0], sample_rate=8000)},
                "page": wandb.Html("<p>"),
                "histogram": wandb.Histogram([1, 2, 3]),
            }
        )
    wandb.finish()

    assert rows_of(tmp_path, run) == [{"loss": 0.5, "step": 0}, {"loss": 0.5, "step": 1}]
    media = fasttrack.open_run(str(run.tracker.get_run_dir())).media()
    names = ["table", "image", "examples", "sound.voice", "page", "histogram"]
    assert [(one.name, one.step) for one in media] == [(n, s) for s in (0, 1) for n in names]
    first = {one.name: one for one in media[:6]}
    assert first["image"].captions == ("dog",)
    assert len(first["examples"].paths) == 2
    told = first["table"].paths[0].read_text()
    assert json.loads(told) == {"columns": ["a", "b"], "data": [[1, 2], [3, 4]]}
    assert run.tracker.stats().refused == 0


def test_what_is_not_kept_is_left_out_named_once_and_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Charts, parts of pictures, what is no media in itself; nothing raises."""
    run = wandb.init(project="p")
    table = wandb.Table(columns=["a", "b"], data=5)
    for _ in range(2):
        run.log(
            {
                "curve": wandb.plot.line(table, "a", "b"),
                "table": table,
                "masked": wandb.Image(torch.zeros(3, 4, 4), masks={"a": 1}),
                "film": wandb.Video(torch.zeros(2, 3, 4, 4)),
                "body": wandb.Object3D("a.obj"),
            }
        )
    table.add_computed_columns(lambda: 1)
    wandb.watch(torch.nn.Linear(1, 1), log="all")
    wandb.finish()

    said = capsys.readouterr().err
    assert run.tracker.stats().refused == 8
    for word in ("a table's data are rows", "masks are not kept", "a Object3D", "watch:"):
        assert word in said, word


def test_what_is_not_known_is_said_once_and_does_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Names of the module, of a run, and arguments; a script's `except` works as well."""
    run = wandb.init(project="p", sync_tensorboard=True, settings=wandb.Settings(symlink=False))
    for _ in range(2):
        wandb.sklearn.plot_learning_curve(None, [1], [2])
        wandb.Api().run("a/b/c").history()
        run.log_code(".")
    assert not isinstance(run, wandb.old_run)
    assert wandb.traced(test_a_login_is_for_this_process) is test_a_login_is_for_this_process
    with wandb.sandbox() as nothing:
        assert list(nothing) == []
    try:
        wandb.log({"a": 1})
    except (wandb.Error, wandb.errors.CommError) as error:
        pytest.fail(str(error))

    said = capsys.readouterr().err
    for name in ("wandb.sklearn", "wandb.Api", "wandb.run.log_code", "wandb.sandbox"):
        assert said.count(f"{name} is not known here") == 1, name
    assert said.count("init: sync_tensorboard= is not known here") == 1
    assert said.count("init: the setting symlink is not known here") == 1
    with pytest.raises(AttributeError):
        _ = wandb.__wrapped__


def test_calls_outside_of_a_run_are_said_and_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    """The client raises; a script that works with it makes no such calls."""
    wandb.log({"a": 1})
    wandb.config["lr"] = 0.1
    wandb.define_metric("a")
    run = wandb.init(project="p")
    wandb.finish()
    wandb.log({"a": 1})
    run.log({"a": 1})
    wandb.finish()

    assert wandb.run is None
    said = capsys.readouterr().err
    assert said.count("wandb.log outside of a run") == 1
    assert run.tracker.stats().late_calls == 1


def test_a_second_init_gives_what_reinit_asks_for() -> None:
    """The open run, a new one instead of it, or one beside it."""
    first = wandb.init(project="p", name="first")
    assert wandb.init(project="other") is first
    beside = wandb.init(project="p", reinit="create_new")
    assert wandb.run is first
    second = wandb.init(project="p", reinit=True)

    assert wandb.run is second
    assert not first.tracker.is_active()
    assert not beside.tracker.is_active()
    assert len({first.id, beside.id, second.id}) == 3


def test_an_exception_in_the_block_fails_the_run_and_goes_on(tmp_path: Path) -> None:
    """With its open row; the next run is a new one."""
    run = wandb.init(project="p")

    def train() -> None:
        with run:
            run.log({"a": 1}, step=3)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train()

    assert rows_of(tmp_path, run) == [{"a": 1, "step": 3}]
    assert [end.exit_code for end in journal_entries(tmp_path, run.id, Finish)] == [1]
    assert wandb.run is None


def test_a_disabled_run_answers_and_writes_nothing(tmp_path: Path) -> None:
    """Its directory is there for scripts that write into it."""
    run = wandb.init(project="p", mode="disabled", config={"lr": 0.1})
    wandb.log({"a": 1})
    wandb.summary["best"] = 1
    wandb.save("*.py")
    (Path(run.dir) / "weights.pt").write_bytes(b"")

    assert run.disabled
    assert len(run.id) == 8
    assert run.config.lr == 0.1
    assert run.step == 1
    assert run.url is None
    assert not (tmp_path / "wandb").exists()


def test_the_arguments_of_init_reach_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name, by settings, by environment, in this order."""
    monkeypatch.setenv("WANDB_PROJECT", "of the environment")
    monkeypatch.setenv("WANDB_TAGS", "a, b")
    (tmp_path / "config.yaml").write_text("lr: {value: 0.1}\nlayers: 2\nseed: 3\n")
    run = wandb.init(
        config="config.yaml",
        config_exclude_keys=["seed"],
        dir=tmp_path / "elsewhere",
        group="night",
        notes="try",
        settings=wandb.Settings(run_name="named", run_group="day", start_method="fork"),
    )
    wandb.finish()

    (header,) = journal_entries(tmp_path / "elsewhere", run.id, Header)
    assert (header.project, header.name) == ("of the environment", "named")
    assert (header.group, header.notes) == ("night", "try")
    assert header.config == {"lr": 0.1, "layers": 2}
    (page,) = journal_entries(tmp_path / "elsewhere", run.id, Page)
    assert page.tags == run.tags == ("a", "b")
    assert (run.project, run.name, run.group) == ("of the environment", "named", "night")


def test_a_wrong_argument_of_init_is_loud() -> None:
    """Before training has begun; nothing raises later."""
    with pytest.raises(ConfigurationError, match="mode"):
        wandb.init(project="p", mode="sometimes")


def test_a_run_goes_on_where_its_earlier_attempt_ended(tmp_path: Path) -> None:
    """Its first step is the one behind the last that is in the journal."""
    for attempt in range(3):
        with wandb.init(project="p", id="again", resume="allow") as run:
            assert (run.resumed, run.starting_step) == (attempt > 0, attempt * 2)
            run.log({"a": attempt})
            run.log({"b": attempt})

    assert [row["step"] for row in rows_of(tmp_path, run)] == list(range(6))


def test_artifacts_and_saved_files_are_kept(tmp_path: Path, monkeypatch: Any) -> None:
    """Models, whatever WANDB_LOG_MODEL says; other types by their names; saved files as files."""
    monkeypatch.setenv("FASTTRACK_BACKENDS", "wandb")
    monkeypatch.setattr("fasttrack.engine.DeliveryProcess", _no_delivery)
    for name in ("model.pt", "data.csv", "notes.txt"):
        Path(name).write_text(name)
    run = wandb.init(project="p")
    model = wandb.Artifact("net", type="model")
    model.add_file("model.pt")
    run.log_artifact(model, aliases=["best"])
    data = wandb.Artifact("digits: all", type="dataset")
    data.add_file("data.csv", name="raw/data.csv")
    with data.new_file("about.txt") as file:
        file.write("made here")
    wandb.log_artifact(data)
    wandb.log_artifact("notes.txt", name="notes", type="text")
    assert wandb.save("*.csv") == ["data.csv"]
    assert wandb.save("*.nothing") == []
    wandb.finish()

    kept = journal_entries(tmp_path, run.id, Artifact)
    assert [(each.type, each.name, each.aliases) for each in kept] == [
        ("model", f"model-{run.id}", ("best",)),
        ("dataset", "digits--all", ("latest",)),
        ("text", "notes", ("latest",)),
        ("files", f"files-{run.id}", ("latest",)),
    ]
    staged = tmp_path / "wandb" / "fasttrack" / run.id / kept[1].directory / "files"
    assert (staged / "about.txt").read_text() == "made here"
    assert (staged / "raw" / "data.csv").read_text() == "data.csv"


def _no_delivery(*arguments: Any, **further: Any) -> Any:
    from fasttrack.worker.supervisor import NoDelivery

    return NoDelivery()


def test_config_is_a_mapping_by_item_and_by_attribute() -> None:
    """As scripts use it: read back, with defaults, and as a namespace's."""
    config = wandb.init(project="p", config=argparse.Namespace(lr=0.1, name="x")).config
    config.setdefaults({"lr": 5, "epochs": 3})
    config["-dash-"] = 1

    assert {**config} == dict(config) == {"lr": 0.1, "name": "x", "epochs": 3, "dash": 1}
    assert (config.get("no"), "lr" in config, config.epochs) == (None, True, 3)
    with pytest.raises(AttributeError, match="no 'missing'"):
        _ = config.missing
    with pytest.raises(KeyError):
        _ = config["missing"]


def test_the_summary_reads_what_was_logged_and_set() -> None:
    """What was logged later counts."""
    run = wandb.init(project="p")
    run.log({"a": 1, "t": torch.tensor(2.5)})
    run.summary["a"] = 10
    run.summary.update({"best": torch.tensor(0.5)})

    assert dict(run.summary.items()) == {"a": 10, "t": 2.5, "best": 0.5}
    run.log({"a": 3})
    assert wandb.summary["a"] == run.summary.get("a") == 3
    assert wandb.summary.get("none", 7) == 7


@pytest.mark.parametrize("how", ["exit", "raise", "sigterm"])
def test_the_open_row_is_written_however_the_script_ends(tmp_path: Path, how: str) -> None:
    """Without `finish`, by an exception that nobody catches, and by a scheduler's signal."""
    result = run_script(
        f"""
        import os, signal
        import fasttrack.wandb as wandb
        wandb.init(project="p", id="open")
        for step in range(3):
            wandb.log({{"a": step}}, step=step)
        if "{how}" == "raise":
            raise RuntimeError
        if "{how}" == "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        """,
        check=False,
    )

    assert [row.values["a"] for row in journal_rows(tmp_path, "open")] == [0, 1, 2], result.stderr
    codes = {"exit": 0, "raise": 1, "sigterm": 143}
    assert [f.exit_code for f in journal_entries(tmp_path, "open", Finish)] == [codes[how]]


def test_a_login_is_for_this_process() -> None:
    """No file is written; a key and a server are taken."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", "")
        patch.setenv("WANDB_BASE_URL", "")
        assert wandb.login(key="k" * 40, host="http://127.0.0.1:9", relogin=True)

        import os

        assert os.environ["WANDB_API_KEY"] == "k" * 40
        assert os.environ["WANDB_BASE_URL"] == "http://127.0.0.1:9"
    assert wandb.login()


def test_helpers_that_scripts_call_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Ids, messages, and what needs nothing."""
    assert len({wandb.util.generate_id() for _ in range(20)}) == 20
    wandb.termwarn("careful", repeat=False)
    wandb.termwarn("careful", repeat=False)
    wandb.termlog("fine")
    wandb.setup()
    wandb.require("core")
    wandb.mark_preempting()

    said = capsys.readouterr().err
    assert said.count("wandb: WARNING careful") == 1
    assert "wandb: fine" in said


def test_a_call_that_cannot_be_done_is_counted_and_said_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By its reason, and how often, when the run ends; nothing raises."""
    run = wandb.init(project="p")
    for step in (5, 3, 2):
        run.log({"a": 1}, step=step)
    run.log([1, 2])  # type: ignore[arg-type]
    run.config.update(7)
    run.config.update("missing.yaml")
    run.log_artifact("missing.bin", type="model")
    wandb.Artifact("a", type="b").add_dir("missing")
    wandb.save("missing.*")
    run.summary.update(3)  # type: ignore[arg-type]
    said = capsys.readouterr().err
    wandb.finish()

    assert said.count("lies below the current one") == 1
    assert said.count("it takes a mapping, not a list") == 1
    assert said.count("'missing.bin' is no file") == 1
    assert said.count("no file is called 'missing.*'") == 1
    closing = capsys.readouterr().err
    assert "fasttrack.wandb: ignored, 10 in all: 2 x wandb.log: step" in closing


def test_a_configuration_that_cannot_be_read_is_loud(tmp_path: Path) -> None:
    """As the constructor of a tracker is."""
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    for config in ("missing.yaml", "list.yaml", "broken.yaml", 7):
        with pytest.raises(ConfigurationError, match="config cannot be read"):
            wandb.init(project="p", config=config)

    assert wandb.run is None


def test_a_trial_of_a_sweep_has_its_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go before the script's own defaults, as with the client."""
    (tmp_path / "sweep.yaml").write_text("lr: {value: 0.5}\n")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "trial1")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(tmp_path / "sweep.yaml"))
    run = wandb.init(project="p", config={"lr": 0.1, "layers": 2})

    assert (run.id, run.config.lr, run.config.layers) == ("trial1", 0.5, 2)


def test_wrong_tags_are_said_and_raise_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither those of `init` nor those that are set later."""
    run = wandb.init(project="p", tags=5)  # type: ignore[arg-type]
    run.tags = None  # type: ignore[assignment]
    run.tags = ["a"]
    wandb.finish()

    assert run.tags == ("a",)
    assert "tags" in capsys.readouterr().err


def test_what_a_handler_raises_goes_on_to_the_script() -> None:
    """A preemption's exception is the program's, also in the midst of a call."""
    import signal

    class Stopped(Exception):
        """Raised by the handler."""

    def stop(number: int, frame: Any) -> None:
        raise Stopped

    class Slow(dict[str, float]):
        """Metrics during whose reading the signal comes."""

        def items(self) -> Any:
            signal.raise_signal(signal.SIGUSR2)
            return super().items()

    before = signal.signal(signal.SIGUSR2, stop)
    try:
        run = wandb.init(project="p")
        with pytest.raises(Stopped):
            run.log(Slow(a=1.0))
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_an_alert_that_nobody_tells_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """A run that keeps its journal only has no process for it; the journal has it all the same."""
    run = wandb.init(project="digits")
    run.alert("over", "all of it", level="loud", wait_duration="long")
    run.alert("over", "all of it", level="loud")
    directory = run.tracker.get_run_dir()
    wandb.finish()
    said = capfd.readouterr().err

    assert "alert (sent nowhere): over: all of it" in said
    assert "level='LOUD' is not known; INFO is taken" in said
    assert directory is not None
    (asked,) = read_entries(directory, AskedAlert)
    assert (asked.title, asked.text, asked.level) == ("over", "all of it", "INFO")
