"""Configurations and checkpoints, from the call to what a W&B server holds."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.runs import (
    HANG_GUARD_S,
    deliver,
    delivery_pid,
    journal_entries,
    make_tracker,
    offline_dirs,
    run_dir,
    wait_until,
    wandb_rows,
)
from support.unprivileged import run_unprivileged
from support.wandb_server import Fault, WandbServer

from fasttrack import ConfigurationError, ExperimentTracker, Options
from fasttrack.journal.cursor import load_cursor
from fasttrack.journal.entries import Artifact
from fasttrack.journal.run_directory import cursor_path, files_directory

pytestmark = pytest.mark.server

WEIGHTS = random.Random(0).randbytes(200_000)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint directory of two files."""
    root = tmp_path / "checkpoint"
    root.mkdir()
    (root / "weights.pt").write_bytes(WEIGHTS)
    (root / "latest").write_text("step10")
    return root


def artifacts_of(server: WandbServer, kind: str) -> list[Any]:
    """Return the committed artifacts of a type, oldest first."""
    return [a for a in server.artifacts if a.type == kind and a.state == "COMMITTED"]


def is_staging_gone(base: Path, tracker: ExperimentTracker) -> bool:
    """Return whether nothing is left of the staged files."""
    return not (run_dir(base, tracker.get_run_id()) / "artifacts").exists()


def sync(base: Path, tracker: ExperimentTracker) -> dict[str, Any]:
    """Deliver a tracker's run by hand; return the last event."""
    return deliver(run_dir(base, tracker.get_run_id()))


def test_a_configuration_becomes_yaml_and_the_runs_config(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole and readable; secrets are hidden; what has no plain form becomes text."""

    @dataclass
    class Model:
        layers: int
        act: Any

    with make_tracker(mode="online", config=None) as tracker:
        tracker.log_config(
            argparse.Namespace(model=Model(2, sum), lr=0.1, name="größe", api_token="s3cr3t")
        )

    expected = {
        "model": {"layers": 2, "act": str(sum)},
        "lr": 0.1,
        "name": "größe",
        "api_token": "[redacted]",
    }
    (artifact,) = artifacts_of(server, "config")
    assert artifact.name == f"config-{tracker.get_run_id()}"
    assert list(artifact.manifest) == ["config.yaml"]
    assert yaml.safe_load(artifact.files["config.yaml"]) == expected
    config = server.runs[str(tracker.get_run_id())].config
    assert {key: config[key] for key in expected} == expected
    assert "model.act" in capsys.readouterr().err
    assert is_staging_gone(tmp_path, tracker)


def test_a_configuration_without_names_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counted and said; training goes on."""
    with make_tracker() as tracker:
        tracker.log_config([1, 2])
        tracker.log_metrics({"a": 1}, step=0)
        assert tracker.stats().failed_calls == 1

    assert "log_config: config must be a mapping" in capsys.readouterr().err
    assert len(wandb_rows(offline_dirs(tmp_path)[0])) == 1


def test_a_checkpoint_arrives_whole_although_it_is_rotated_away(
    server: WandbServer, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its files, aliases and step are on the server; the size was said first; nothing is left."""
    with make_tracker(mode="online") as tracker:
        tracker.log_training_step(1.0, 10)
        tracker.log_checkpoint(checkpoint, aliases=["best", "step10"], force=True)
        shutil.rmtree(checkpoint)

    (artifact,) = artifacts_of(server, "model")
    assert artifact.name == f"model-{tracker.get_run_id()}"
    assert artifact.files == {"weights.pt": WEIGHTS, "latest": b"step10"}
    assert sorted(artifact.aliases) == ["best", "latest", "step10"]
    assert artifact.metadata == {"step": 10}
    assert artifact.run_id == tracker.get_run_id()
    assert f"uploading checkpoint {checkpoint}: 200.0 KB in 2 files" in capsys.readouterr().err
    assert is_staging_gone(tmp_path, tracker)


@pytest.mark.parametrize(("log_model", "uploads"), [(None, 0), ("0", 0), ("false", 0), ("1", 2)])
def test_the_policy_decides_unless_forced(
    tmp_path: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    log_model: str | None,
    uploads: int,
) -> None:
    """WANDB_LOG_MODEL; the refusal is said once."""
    if log_model is not None:
        monkeypatch.setenv("WANDB_LOG_MODEL", log_model)
    with make_tracker() as tracker:
        for _ in range(2):
            tracker.log_checkpoint(checkpoint)
        tracker.log_checkpoint(checkpoint / "weights.pt", aliases=["final"], force=True)

    entries = journal_entries(tmp_path, tracker.get_run_id(), Artifact)
    assert [entry.aliases for entry in entries] == [*[("latest",)] * uploads, ("final",)]
    notices = capsys.readouterr().err.count("checkpoints are not uploaded")
    assert notices == (0 if uploads else 1)


def test_a_wrong_policy_is_refused_at_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would otherwise be found out after a day of training."""
    monkeypatch.setenv("WANDB_LOG_MODEL", "sometimes")

    with pytest.raises(ConfigurationError, match=r"WANDB_LOG_MODEL must be 0 or 1.*sometimes"):
        make_tracker()


@pytest.mark.parametrize(
    ("path", "aliases", "said"),
    [
        ("nowhere", ["latest"], "path nowhere does not exist"),
        (".", "best", "aliases must be a list of strings, not 'best'"),
        (".", ["a/b"], "alias 'a/b' must be a string without '/' and ':'"),
        (None, ["latest"], "log_checkpoint: "),
    ],
)
def test_a_wrong_call_is_said_and_training_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    path: Any,
    aliases: Any,
    said: str,
) -> None:
    """Nothing raises into training."""
    monkeypatch.chdir(tmp_path)
    with make_tracker() as tracker:
        tracker.log_checkpoint(path, aliases=aliases, force=True)
        assert tracker.stats().failed_calls == 1

    assert said in capsys.readouterr().err
    assert journal_entries(tmp_path, tracker.get_run_id(), Artifact) == []


def test_more_than_5_gb_is_warned_about_and_stays_linked_where_no_copy_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sparse file of 2 TB; delivery is not waited for here."""
    large = tmp_path / "model.pt"
    with large.open("wb") as file:
        file.truncate(2 * 10**12)
    tracker = make_tracker(options=Options(finish_timeout_s=0, upload_timeout_s=0))
    tracker.log_checkpoint(large, force=True)
    (entry,) = wait_for_artifacts(tmp_path, tracker, 1)
    os.kill(delivery_pid(tracker), signal.SIGKILL)
    tracker.finish()

    assert entry.size_bytes == 2 * 10**12
    said = capsys.readouterr().err
    assert f"keeping checkpoint {large} for an upload: 2000.0 GB in 1 files" in said
    assert "warning: 2000.0 GB is a lot to upload" in said
    assert f"warning: no room for a copy of {large}" in said
    staged = files_directory(run_dir(tmp_path, tracker.get_run_id()) / entry.directory) / "model.pt"
    assert staged.stat().st_ino == large.stat().st_ino


def wait_for_artifacts(base: Path, tracker: ExperimentTracker, count: int) -> list[Artifact]:
    """Wait until the journal names so many artifacts; return them."""

    def entries() -> list[Artifact]:
        return journal_entries(base, tracker.get_run_id(), Artifact)

    wait_until(lambda: len(entries()) == count)
    return entries()


def test_across_file_systems_a_checkpoint_is_copied_although_it_is_deleted_at_once(
    server: WandbServer, tmp_path: Path, checkpoint: Path
) -> None:
    """Its files are held open, and copied in the background."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        if os.stat(elsewhere).st_dev == tmp_path.stat().st_dev:
            pytest.skip("needs a second file system on /dev/shm")
        with make_tracker(mode="online", options=Options(directory=elsewhere)) as tracker:
            tracker.log_checkpoint(checkpoint, force=True)
            shutil.rmtree(checkpoint)
        staging_gone = is_staging_gone(Path(elsewhere), tracker)

    (artifact,) = artifacts_of(server, "model")
    assert artifact.files == {"weights.pt": WEIGHTS, "latest": b"step10"}
    assert staging_gone


def test_staged_files_that_are_written_to_are_not_uploaded_and_it_is_said(
    server: WandbServer, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of one checkpoint and half of another is none. Later ones are not affected."""
    server.fault = Fault("hang", "graphql")  # delivery has not begun when the file changes
    with make_tracker(mode="online") as tracker:
        tracker.log_checkpoint(checkpoint, aliases=["broken"], force=True)
        staged_weights(tmp_path, tracker).write_bytes(b"x" * 200_000)
        tracker.log_checkpoint(checkpoint, aliases=["whole"], force=True)
        wait_for_artifacts(tmp_path, tracker, 2)
        server.fault = None

    (artifact,) = artifacts_of(server, "model")
    assert "whole" in artifact.aliases
    assert artifact.files["weights.pt"] == WEIGHTS
    assert "weights.pt changed after the call, in place" in capsys.readouterr().err
    assert is_staging_gone(tmp_path, tracker)


def staged_weights(base: Path, tracker: ExperimentTracker) -> Path:
    """Return where the tracker's first checkpoint has its weights staged."""
    entry = wait_for_artifacts(base, tracker, 1)[0]
    return files_directory(run_dir(base, tracker.get_run_id()) / entry.directory) / "weights.pt"


def test_a_file_that_becomes_shorter_while_it_is_sent_does_not_hold_up_the_end(
    server: WandbServer, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The client would send it for ever. The rows arrive, and later artifacts do."""
    with (checkpoint / "weights.pt").open("ab") as file:
        file.truncate(20_000_000)  # more than fits into a socket's buffers
    server.fault = Fault("hang", "artifact")
    with make_tracker(mode="online") as tracker:
        tracker.log_training_step(1.0, 0)
        tracker.log_checkpoint(checkpoint, aliases=["broken"], force=True)
        wait_until(lambda: server.faults_struck > 0)
        os.truncate(staged_weights(tmp_path, tracker), 1000)
        server.fault = None
        tracker.log_checkpoint(checkpoint / "latest", aliases=["whole"], force=True)

    (artifact,) = artifacts_of(server, "model")
    assert artifact.files == {"latest": b"step10"}
    assert "weights.pt changed after the call, in place" in capsys.readouterr().err
    run = server.runs[str(tracker.get_run_id())]
    assert [row["loss/total"] for row in run.history] == [1.0]
    assert is_staging_gone(tmp_path, tracker)


def test_a_version_is_deleted_whose_files_were_overwritten_before_it_was_committed(
    server: WandbServer, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody can tell what was sent; it does not stand as what was logged."""
    with make_tracker(mode="online") as tracker:
        server.fault = Fault("hang", "graphql", operation="CommitArtifact")
        tracker.log_checkpoint(checkpoint, aliases=["broken"], force=True)
        wait_until(lambda: server.faults_struck > 0)
        staged_weights(tmp_path, tracker).write_bytes(b"x" * len(WEIGHTS))
        server.fault = None
    states = [(artifact.state, artifact.aliases) for artifact in server.artifacts]

    assert states == [("DELETED", [])]
    assert "while it was uploaded; the version was removed" in capsys.readouterr().err
    assert is_staging_gone(tmp_path, tracker)


def test_offline_a_staged_file_that_is_written_to_does_not_hold_up_the_rows(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The offline directory is whole without it."""
    with make_tracker() as tracker:
        tracker.log_training_step(1.0, 0)
        os.kill(delivery_pid(tracker), signal.SIGSTOP)
        tracker.log_checkpoint(checkpoint, force=True)
        staged_weights(tmp_path, tracker).write_bytes(b"other")
        os.kill(delivery_pid(tracker), signal.SIGCONT)

    said = capsys.readouterr().err
    assert "weights.pt changed after the call, in place" in said
    assert "rows kept: 1" in said
    assert len(wandb_rows(offline_dirs(tmp_path)[0])) == 1


@pytest.mark.parametrize("own", [False, True], ids=["below WANDB_DIR", "where the user says"])
def test_artifacts_need_nothing_in_home(
    server: WandbServer, tmp_path: Path, checkpoint: Path, own: bool
) -> None:
    """It is read-only on some clusters, and small on others. What the user has set is used."""
    home, elsewhere = tmp_path / "closed", tmp_path / "elsewhere"
    home.mkdir(mode=0o500)
    places = {"WANDB_DATA_DIR": str(elsewhere), "WANDB_CACHE_DIR": str(elsewhere)} if own else {}
    result = run_unprivileged(
        "-c",
        textwrap.dedent("""
            from support.runs import make_tracker
            with make_tracker(mode="online") as tracker:
                tracker.log_training_step(1.0, 0)
                tracker.log_config({"lr": 1})
                tracker.log_checkpoint("checkpoint", force=True)
        """),
        HOME=str(home),
        **places,
    )

    assert "rows delivered: 1" in result.stderr
    assert [a.files["weights.pt"] for a in artifacts_of(server, "model")] == [WEIGHTS]
    assert len(artifacts_of(server, "config")) == 1
    assert list(home.iterdir()) == []
    assert elsewhere.exists() is own
    left = {path.name for path in (tmp_path / "wandb" / "fasttrack").glob("*/client/*")}
    assert left == (set() if own else {"cache"})  # which has the client's own log


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_config_that_names_an_artifact_stops_nothing(
    server: WandbServer, tmp_path: Path, mode: str
) -> None:
    """wandb would fetch it, and fail where there is no network."""
    reference = "wandb-artifact://entity/project/name:v0"
    with make_tracker(mode=mode, config={"data": reference}) as tracker:
        tracker.log_config({"nested": {"data": [reference]}})
        tracker.log_training_step(1.0, 0)
    done = sync(tmp_path, tracker)

    assert done["delivered"]
    run = server.runs[str(tracker.get_run_id())]
    assert [row["loss/total"] for row in run.history] == [1.0]
    assert reference in run.config["data"]


def test_offline_checkpoints_are_uploaded_by_a_later_sync_and_only_once(
    server: WandbServer, tmp_path: Path, checkpoint: Path
) -> None:
    """Staging waits for it, then goes; a second sync finds nothing to do."""
    with make_tracker() as tracker:
        tracker.log_training_step(1.0, 0)
        tracker.log_config({"lr": 0.5})
        tracker.log_checkpoint(checkpoint, force=True)
        shutil.rmtree(checkpoint)
    kept = not is_staging_gone(tmp_path, tracker)
    before = list(server.artifacts)
    first, second = sync(tmp_path, tracker), sync(tmp_path, tracker)

    assert (kept, before) == (True, [])
    (artifact,) = artifacts_of(server, "model")
    assert artifact.files == {"weights.pt": WEIGHTS, "latest": b"step10"}
    assert len(artifacts_of(server, "config")) == 1
    run = server.runs[str(tracker.get_run_id())]
    assert [row["loss/total"] for row in run.history] == [1.0]
    assert (first["delivered"], first["already"]) == (True, False)
    assert (second["delivered"], second["already"]) == (True, True)
    assert is_staging_gone(tmp_path, tracker)


def test_offline_checkpoints_are_uploaded_by_wandb_sync_too(
    server: WandbServer, tmp_path: Path, checkpoint: Path
) -> None:
    """The offline directory holds all it needs; our own sync afterwards doubles nothing."""
    with make_tracker() as tracker:
        tracker.log_training_step(1.0, 0)
        tracker.log_checkpoint(checkpoint, force=True)
    subprocess.run(
        [str(Path(sys.executable).with_name("wandb")), "sync", str(offline_dirs(tmp_path)[0])],
        check=True,
        capture_output=True,
        timeout=120,
    )
    (artifact,) = artifacts_of(server, "model")
    done = sync(tmp_path, tracker)

    assert artifact.files["weights.pt"] == WEIGHTS
    assert done["delivered"]
    assert [a.version for a in artifacts_of(server, "model")] == ["v0"]
    assert len(server.runs[str(tracker.get_run_id())].history) == 1
    assert is_staging_gone(tmp_path, tracker)


def test_of_a_copy_only_our_own_sync_delivers_the_artifacts(
    server: WandbServer, tmp_path: Path, checkpoint: Path
) -> None:
    """The client's record names the files where they lay; what the documents say of it is true."""
    with make_tracker() as tracker:
        tracker.log_training_step(1.0, 0)
        tracker.log_checkpoint(checkpoint, force=True)
    elsewhere = tmp_path / "elsewhere"
    shutil.move(tmp_path / "wandb", elsewhere / "wandb")
    theirs = subprocess.run(
        [str(Path(sys.executable).with_name("wandb")), "sync", str(offline_dirs(elsewhere)[0])],
        check=False,
        capture_output=True,
        timeout=HANG_GUARD_S,
    )
    left_out = artifacts_of(server, "model")
    done = sync(elsewhere, tracker)

    assert (theirs.returncode, left_out) == (0, [])
    assert done["delivered"]
    assert [a.files["weights.pt"] for a in artifacts_of(server, "model")] == [WEIGHTS]
    run = server.runs[str(tracker.get_run_id())]
    assert [row["loss/total"] for row in run.history] == [1.0]
    assert is_staging_gone(elsewhere, tracker)


def test_a_refused_artifact_is_said_and_kept_for_a_later_sync(
    server: WandbServer, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rows arrive all the same."""
    with make_tracker(mode="online") as tracker:
        wait_until(lambda: tracker.get_run_url() is not None)
        server.fault = Fault("status", "artifact", status=403)
        tracker.log_training_step(1.0, 0)
        tracker.log_checkpoint(checkpoint, force=True)
    said = capsys.readouterr().err
    refused = list(artifacts_of(server, "model"))
    server.fault = None
    done = sync(tmp_path, tracker)

    assert refused == []
    assert f"artifact model-{tracker.get_run_id()} was not uploaded" in said
    assert "fasttrack sync" in said
    assert len(server.runs[str(tracker.get_run_id())].history) == 1
    assert done["delivered"]
    assert artifacts_of(server, "model")[0].files["weights.pt"] == WEIGHTS
    assert is_staging_gone(tmp_path, tracker)


def test_delivery_killed_during_an_upload_uploads_it_again_once(
    server: WandbServer, tmp_path: Path, checkpoint: Path
) -> None:
    """The supervisor starts it anew; there is one version in the end."""
    with make_tracker(mode="online") as tracker:
        wait_until(lambda: tracker.get_run_url() is not None)
        server.fault = Fault("hang", "artifact")
        tracker.log_checkpoint(checkpoint, force=True)
        wait_until(lambda: server.faults_struck > 0)
        os.kill(delivery_pid(tracker), signal.SIGKILL)
        server.fault = None

    (artifact,) = artifacts_of(server, "model")
    assert artifact.files["weights.pt"] == WEIGHTS
    cursor = load_cursor(cursor_path(run_dir(tmp_path, tracker.get_run_id())))
    proofs = cursor.backends["wandb"].segments["segment-0001.jsonl"].artifacts
    assert proofs == {"1": f"the server has it as {artifact.name}:v0 (committed)"}


def test_other_ranks_and_disabled_runs_stage_nothing(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """log_config and log_checkpoint answer and do nothing."""
    disabled = make_tracker(mode="disabled")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for tracker in (disabled, make_tracker()):
        tracker.log_config({"lr": 1})
        tracker.log_checkpoint(checkpoint, force=True)
        tracker.finish()

    assert not (tmp_path / "wandb").exists()


def test_calls_after_finish_are_counted(tmp_path: Path, checkpoint: Path) -> None:
    """As every other late call."""
    with make_tracker() as tracker:
        pass
    tracker.log_config({"lr": 1})
    tracker.log_checkpoint(checkpoint, force=True)

    assert tracker.stats().late_calls == 2


def test_in_the_delivery_thread_it_works_the_same(
    server: WandbServer, tmp_path: Path, checkpoint: Path
) -> None:
    """Options(delivery="thread") uploads as well."""
    with make_tracker(mode="online", options=Options(delivery="thread")) as tracker:
        tracker.log_checkpoint(checkpoint, force=True)

    assert [a.files["weights.pt"] for a in artifacts_of(server, "model")] == [WEIGHTS]
    assert is_staging_gone(tmp_path, tracker)


def test_two_gigabytes_with_loops_rotated_away_at_once_arrive_whole(
    server: WandbServer, tmp_path: Path
) -> None:
    """Sparse files, so that the disk need not hold them; their bytes are all read and sent."""
    root = tmp_path / "step1000"
    (root / "shards").mkdir(parents=True)
    for number in range(4):
        with (root / "shards" / f"rank{number}.pt").open("wb") as file:
            file.write(number.to_bytes(8, "little"))
            file.truncate(512 * 2**20)
    (root / "loop").symlink_to(".")
    (root / "shards" / "up").symlink_to("..")
    with make_tracker(mode="online") as tracker:
        tracker.log_checkpoint(root, aliases=["step1000"], force=True)
        timer = threading.Timer(0.05, shutil.rmtree, [root])
        timer.start()
        for step in range(200):
            tracker.log_training_step(step / 4, step)
        timer.join()

    (artifact,) = artifacts_of(server, "model")
    sizes = {name: size for name, (size, _) in artifact.manifest.items()}
    assert sizes == {f"shards/rank{number}.pt": 512 * 2**20 for number in range(4)}
    assert len({md5 for _, md5 in artifact.manifest.values()}) == 4
    assert artifact.uploaded_bytes >= 2**31
    assert len(server.runs[str(tracker.get_run_id())].history) == 200
    assert is_staging_gone(tmp_path, tracker)
