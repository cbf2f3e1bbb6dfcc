"""Alerts, end to end: real trainers that die and hang, a webhook and a W&B server on loopback."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from support.journals import read_entries
from support.runs import (
    deliver,
    delivery_pid,
    make_tracker,
    run_dir,
    script_environment,
    wait_until,
)
from support.webhooks import WebhookServer

from fasttrack import Options
from fasttrack.cli.app import cli
from fasttrack.journal.alerts import load_alerts
from fasttrack.journal.entries import Header
from fasttrack.journal.run_directory import alerts_path
from fasttrack.runs.alerts import read_alerts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.wandb_server import WandbServer

    from fasttrack import ExperimentTracker

_TRAINER = """
    import os, sys
    from support.runs import make_tracker
    from fasttrack import Options
    alerts = {"to": ["stderr", "webhook", "wandb"], "webhook": sys.argv[1], "hung": 0.5}
    tracker = make_tracker(mode="online", options=Options(alerts=alerts))
    for step in range(20):
        tracker.log_training_step(1 / (step + 1), step, 8)
    assert tracker.flush(30)
    print(tracker.get_run_id(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hook() -> Iterator[WebhookServer]:
    """A webhook on loopback."""
    with WebhookServer() as running:
        yield running


def told(directory: Path) -> dict[str, dict[str, bool]]:
    """Return of each alert, by its kind, who was told."""
    return {
        alert.kind: {name: sending.done for name, sending in alert.sent.items()}
        for alert in load_alerts(alerts_path(directory))
    }


def log_rows(tracker: ExperimentTracker, steps: range, **changes: Any) -> None:
    """Log a loss of 1 at each step; `loss` may be another."""
    for step in steps:
        tracker.log_training_step(changes.get("loss", 1.0), step, 8)
    assert tracker.flush(30)


@pytest.mark.server
def test_a_trainer_that_stands_still_and_one_that_dies_are_announced_once(
    server: WandbServer, hook: WebhookServer, tmp_path: Path
) -> None:
    """Stopped, then killed with -9: webhook, W&B's page and its own stderr hear of both."""
    errors = tmp_path / "stderr.txt"
    with errors.open("w") as stderr:
        trainer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(_TRAINER), hook.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=script_environment(),
        )
    assert trainer.stdin is not None
    assert trainer.stdout is not None
    with trainer, trainer.stdin, trainer.stdout:
        run_id = trainer.stdout.readline().strip()
        assert server.wait_for(lambda: run_id in server.runs, 120)
        os.kill(trainer.pid, signal.SIGSTOP)
        hook.wait_for(1)
        os.kill(trainer.pid, signal.SIGKILL)
    texts = hook.wait_for(2)
    assert server.wait_for(lambda: server.runs[run_id].state == "failed", 120)
    directory = run_dir(tmp_path, run_id)
    wait_until(lambda: told(directory)["crash"]["wandb"])
    with make_tracker(  # the same trouble, seen again from another attempt's delivery, is no news
        mode="online", resume_id=run_id, tags=None, options=Options(alerts={"webhook": hook.url})
    ) as tracker:
        log_rows(tracker, range(20, 25))

    assert "is stopped (SIGSTOP, or Ctrl-Z)" in texts[0]
    assert "the training process died without a word; its last step was 19" in texts[1]
    titles = [(level, title) for level, title, _ in server.runs[run_id].alerts]
    assert titles == [("ERROR", "training hangs"), ("ERROR", "training died")]
    assert hook.texts == texts
    everybody = {"stderr": True, "webhook": True, "wandb": True}
    assert told(directory) == {"hung": everybody, "crash": everybody}
    said = errors.read_text()
    assert said.count("alert: the training process is stopped") == 1
    assert said.count("alert: the training process died") == 1
    assert "very-secret-path" not in said


@pytest.mark.server
def test_an_alert_comes_once_though_delivery_is_killed_and_the_run_goes_on(
    server: WandbServer, hook: WebhookServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule's metric stays bad; a resumed attempt trains the same steps again."""
    monkeypatch.setenv("FASTTRACK_ALERTS_WEBHOOK", hook.url)
    monkeypatch.setenv("FASTTRACK_ALERTS_TO", "webhook,wandb")
    options = Options(alerts=["loss/total > 4 for 3"])
    with make_tracker(mode="online", options=options) as tracker:
        run_id = str(tracker.get_run_id())
        directory = run_dir(tmp_path, run_id)
        wait_until(lambda: tracker.get_run_url() is not None)
        log_rows(tracker, range(10))
        log_rows(tracker, range(10, 20), loss=5.0)
        hook.wait_for(1)
        assert server.wait_for(lambda: server.runs[run_id].alerts, 120)
        wait_until(lambda: told(directory)["rule"]["webhook"])
        os.kill(delivery_pid(tracker), signal.SIGKILL)
        log_rows(tracker, range(20, 30), loss=5.0)
    with make_tracker(mode="online", resume_id=run_id, tags=None, options=options) as tracker:
        log_rows(tracker, range(5, 20), loss=5.0)

    name = tracker.get_run_name()
    text = "loss/total is 5 at step 12, 3 rows in a row: loss/total > 4 for 3"
    assert server.runs[run_id].alerts == [("WARN", "loss/total > 4 for 3", text)]
    assert hook.texts == [f"WARN {name}: {text} ({tracker.get_run_url()})"]
    assert hook.keys == [f"{run_id}:rule:loss/total > 4 for 3:12"]
    directory = run_dir(tmp_path, run_id)
    assert [alert[1:4] for alert in read_alerts(directory)] == [
        ("WARN", "loss/total > 4 for 3", text)
    ]
    (header, _) = read_entries(directory, Header)
    assert header.alerts["rules"] == ["loss/total > 4 for 3"]
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"very-secret-path" not in written


@pytest.mark.server
def test_what_goes_wrong_again_is_told_by_w_and_b_again(
    server: WandbServer, tmp_path: Path
) -> None:
    """Its server drops a second alert of a title within ten minutes."""
    options = Options(alerts={"to": ["wandb"], "rules": ["loss/total > 4"]})
    with make_tracker(mode="online", options=options) as tracker:
        log_rows(tracker, range(10))
        log_rows(tracker, range(10, 11), loss=5.0)
        log_rows(tracker, range(11, 99))
        log_rows(tracker, range(99, 100), loss=5.0)

    run_id = str(tracker.get_run_id())
    titles = [title for _, title, _ in server.runs[run_id].alerts]
    assert titles == ["loss/total > 4", "loss/total > 4 (2)"]


@pytest.mark.server
def test_what_waits_is_sent_by_the_next_delivery(
    server: WandbServer,
    hook: WebhookServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Offline W&B hears nothing, the webhook refuses: `show` tells, and `sync` sends both."""
    monkeypatch.setenv("FASTTRACK_ALERTS_WEBHOOK", hook.url)
    hook.status = 404
    options = Options(alerts={"to": ["stderr", "wandb", "webhook"]})
    with make_tracker(options=options) as tracker:
        log_rows(tracker, range(5), loss=math.nan)
        hook.wait_for_requests(1)
    directory = run_dir(tmp_path, tracker.get_run_id())
    kept = told(directory)
    shown = " ".join(CliRunner().invoke(cli, ["show", str(directory)]).stdout.split())
    as_json = json.loads(CliRunner().invoke(cli, ["show", "--json", str(directory)]).stdout)
    hook.status = 200
    done = deliver(directory, fresh=True)

    assert kept == {"non_finite": {"wandb": False, "webhook": False}}
    assert "ERROR" in shown
    assert "loss/total became nan at step 0" in shown
    assert "(wandb: waits, webhook: waits; 1 try in vain (HTTP 404))" in shown
    assert as_json["alerts"][0]["title"] == "loss/total is nan"
    assert done["delivered"]
    assert told(directory) == {"non_finite": {"wandb": True, "webhook": True}}
    assert len(hook.texts) == len(server.runs[str(tracker.get_run_id())].alerts) == 1


@pytest.mark.server
def test_what_a_script_asks_of_w_and_b_reaches_it_and_the_webhook(
    server: WandbServer,
    hook: WebhookServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Through `fasttrack.wandb`, once each: also where nobody has said that W&B is told."""
    from fasttrack import wandb

    monkeypatch.setenv("FASTTRACK_ALERTS_WEBHOOK", hook.url)
    run = wandb.init(project="digits", mode="online", dir=str(tmp_path), name="asks")
    run.log({"loss": 1.0})
    wandb.alert("half way", "half of it", level=wandb.AlertLevel.WARN)
    wandb.alert("half way", "within the minute that it waits")
    run.alert(title="over", level="ERROR", wait_duration=0)
    run.alert(title="over", text="again", wait_duration=timedelta(0))
    wandb.finish()
    directory = run_dir(tmp_path, run.id)
    shown = " ".join(CliRunner().invoke(cli, ["show", str(directory)]).stdout.split())

    assert server.runs[run.id].alerts == [
        ("WARN", "half way", "half of it"),
        ("ERROR", "over", ""),
        ("INFO", "over (2)", "again"),
    ]
    url = f"({run.url})"
    assert [text.removesuffix(url).strip() for text in hook.texts] == [
        "WARN asks: half way: half of it",
        "ERROR asks: over",
        "INFO asks: over: again",
    ]
    said = capfd.readouterr().err
    assert said.count("alert: half way: half of it\n") == said.count("alert: over: again\n") == 1
    assert "half way: half of it (stderr: told, webhook: told, wandb: told)" in shown


def test_a_run_that_keeps_its_journal_only_is_watched_where_that_is_asked_for(
    hook: WebhookServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By a process that delivers nothing. It fails, and says why its webhook heard nothing else."""
    (tmp_path / "fasttrack.toml").write_text(f'[alerts]\nwebhook = "{hook.url}"\n')

    def train() -> None:
        with make_tracker(options=Options(backends=("none",))) as tracker:
            tracker.log_training_step(1.0, 0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()

    (text,) = hook.wait_for(1)
    assert text.endswith("the run ended as failed (exit code 1); its last step was 0")
    assert "very-secret-path" not in "".join(capfd.readouterr())
