"""The test server, held against the real wandb client."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import http.client
import json
import math
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pytest
from support.wandb_server import Fault, WandbServer
from support.wandb_server_artifacts import KEPT_BYTES, ServerArtifact
from support.wandb_server_runs import ServerRun

wandb = pytest.importorskip("wandb", reason="these tests run the real wandb client")

_TESTS = Path(__file__).parents[1]

# The client waits in whole seconds before it retries: 1 is the least, and 0 means the default.
_QUICK = {
    "console": "off",
    "silent": True,
    "save_code": False,
    "disable_git": True,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_save_requirements": False,
    "x_file_stream_transmit_interval": 1,
    "x_file_stream_retry_wait_min_seconds": 1,
    "x_file_stream_retry_wait_max_seconds": 1,
    "x_file_transfer_retry_wait_min_seconds": 1,
    "x_file_transfer_retry_wait_max_seconds": 1,
    "x_graphql_retry_wait_min_seconds": 1,
    "x_graphql_retry_wait_max_seconds": 1,
}

_TRAIN = """
import json, sys, wandb
run = wandb.init(
    project="p", id="r1", name="first", config={"lr": 0.1, "opt": {"b": [1, 2]}},
    tags=["a", "b"], group="g", notes="n", settings=wandb.Settings(disable_git=True),
)
print("starting step", run.starting_step)
for row in json.loads(sys.argv[1]):
    run.log(row)
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    """A server that this process's wandb client uses; its start-up is paid once."""
    with pytest.MonkeyPatch.context() as patch, WandbServer() as running:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        folder = str(tmp_path_factory.mktemp("shared"))
        patch.setenv("HOME", folder)
        patch.setenv("WANDB_DIR", folder)
        for name, value in running.env().items():
            patch.setenv(name, value)
        wandb.teardown()  # of what other files did: the server's address is read once
        wandb.setup()
        yield running
        wandb.teardown()


@pytest.fixture
def online(shared: WandbServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """The shared server without faults; at the end, all that it was asked was known to it."""
    for name, value in shared.env().items():
        monkeypatch.setenv(name, value)
    yield shared
    shared.fault = None
    assert shared.unknown_operations == []


@pytest.fixture
def run_id(request: pytest.FixtureRequest) -> str:
    """An id that no other test uses."""
    return "".join(c if c.isalnum() else "-" for c in request.node.name)


def start(run_id: str, **arguments: Any) -> Any:
    """Start a run of the real client in this process."""
    settings = wandb.Settings(**_QUICK)
    return wandb.init(project="p", id=run_id, settings=settings, reinit="create_new", **arguments)


def train(run_id: str, rows: list[dict[str, Any]], exit_code: int = 0, **arguments: Any) -> None:
    """Log rows as one run and finish it."""
    run = start(run_id, **arguments)
    for row in rows:
        run.log(row)
    run.finish(exit_code)


def make_rows(count: int) -> list[dict[str, Any]]:
    """Return rows of several metrics."""
    return [{"loss": 1 / (i + 1), "train/step": i, "grad/norm": i * 0.7} for i in range(count)]


def logged(run: ServerRun) -> list[dict[str, Any]]:
    """Return the history without the client's own columns; NaN as text, for `==`."""
    plain = [{k: v for k, v in row.items() if not k.startswith("_")} for row in run.history]
    return [{k: "nan" if v != v else v for k, v in row.items()} for row in plain]


def make_artifact(name: str, folder: Path, files: dict[str, bytes], **arguments: Any) -> Any:
    """Write files and return an artifact that names them where they are, uncopied."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    artifact = wandb.Artifact(name, "model", **arguments)
    artifact.add_dir(str(folder), policy="immutable", skip_cache=True)
    return artifact


def versions(server: WandbServer, name: str) -> list[ServerArtifact]:
    """Return the artifacts of one name, as the server has them."""
    return [artifact for artifact in server.artifacts if artifact.name == name]


def md5_of(content: bytes) -> str:
    """Return the MD5 as artifacts have it."""
    return base64.b64encode(hashlib.md5(content).digest()).decode()


def send(url: str, data: bytes, method: str = "POST", **headers: str) -> Any:
    """Send a request; return the reply, parsed."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data, names, method=method)
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


def ask(server: WandbServer, operation: str, **variables: Any) -> Any:
    """Send a GraphQL operation as the client does; return the reply."""
    query = {"query": f"mutation {operation} {{ x }}", "variables": variables}
    return send(f"{server.url}/graphql", json.dumps(query).encode())


def refusal(url: str, data: bytes, method: str = "POST", **headers: str) -> tuple[int, str]:
    """Send a request that is refused; return the status and the error."""
    with pytest.raises(urllib.error.HTTPError) as raised:
        send(url, data, method, **headers)
    with raised.value as reply:
        return reply.code, json.load(reply)["error"]


def test_online_run_arrives_exactly_as_it_was_logged(server: WandbServer, tmp_path: Path) -> None:
    """Rows, NaN and infinities included, config, names, console and files reach the server."""
    rows = make_rows(200)
    rows[3]["loss"], rows[4]["loss"] = math.nan, -math.inf
    command = [sys.executable, "-c", _TRAIN, json.dumps(rows)]
    subprocess.run(command, check=True, capture_output=True, timeout=90)

    run = server.runs["r1"]
    rows[3]["loss"] = "nan"
    assert logged(run) == rows
    assert [row["_step"] for row in run.history] == list(range(200))
    assert run.config == {"lr": 0.1, "opt": {"b": [1, 2]}}
    assert (run.entity, run.project, run.display_name) == ("tester", "p", "first")
    assert (run.tags, run.group, run.notes) == (["a", "b"], "g", "n")
    assert run.summary["train/step"] == 199
    assert "starting step 0" in run.console
    assert b"lr" in run.files["config.yaml"]
    assert set(run.uploaded) == set(run.files)
    assert server.unknown_operations == []


def test_resumed_run_continues_after_its_last_step(online: WandbServer, run_id: str) -> None:
    """The same id starts one step after the last and appends."""
    train(run_id, make_rows(50), exit_code=1)
    train(run_id, make_rows(30), resume="must")

    run = online.runs[run_id]
    assert logged(run) == make_rows(50) + make_rows(30)
    assert [row["_step"] for row in run.history] == list(range(80))
    assert (run.state, run.exit_code) == ("finished", 0)


def test_public_api_reads_a_run_back(online: WandbServer, run_id: str) -> None:
    """wandb.Api answers what a delivery check asks."""
    train(run_id, make_rows(40), name="first", config={"lr": 0.1}, tags=["a", "b"])
    run = wandb.Api().run(f"tester/p/{run_id}")

    assert (run.lastHistoryStep, run.historyLineCount, run.state) == (39, 40, "finished")
    assert (run.name, run.tags, run.config) == ("first", ["a", "b"], {"lr": 0.1})
    assert run.summary["loss"] == 1 / 40
    assert len(list(run.scan_history())) == 40


@pytest.mark.parametrize(
    ("exit_code", "preempting", "state"),
    [(0, False, "finished"), (3, False, "failed"), (1, True, "failed")],
)
def test_exit_code_decides_the_state(
    online: WandbServer, run_id: str, exit_code: int, preempting: bool, state: str
) -> None:
    """finish(code) and a preemption mark leave their trace."""
    run = start(run_id)
    if preempting:
        run.mark_preempting()
    run.finish(exit_code)

    received = online.runs[run_id]
    assert (received.state, received.exit_code) == (state, exit_code)
    assert received.preempting is preempting


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("status", "any"),
        ("slow", "any"),
        ("close", "file_stream"),
        ("reset", "file_stream"),
        ("lose_reply", "file_stream"),
        ("cut_reply", "file_stream"),
    ],
)
def test_passing_fault_leaves_each_row_once(
    online: WandbServer,
    run_id: str,
    kind: Literal["status", "slow", "close", "reset", "lose_reply", "cut_reply"],
    target: Literal["any", "file_stream"],
) -> None:
    """The client tries again, and nothing is lost or doubled."""
    struck_before = online.faults_struck
    online.fault = Fault(kind, target, times=1)
    train(run_id, make_rows(100))

    assert online.faults_struck == struck_before + 1
    assert logged(online.runs[run_id]) == make_rows(100)
    assert online.runs[run_id].state == "finished"


def test_each_fault_looks_to_the_client_as_it_is_called(server: WandbServer) -> None:
    """A reset is no end of file, a cut reply is shorter than it said, a wait is asked for."""
    body = b'{"query": "query Viewer { viewer { id } }"}'

    def ask() -> tuple[int, str | None, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("POST", "/graphql", body)
            reply = connection.getresponse()
            return reply.status, reply.headers["Retry-After"], reply.read()

    server.fault = Fault("reset")
    with pytest.raises(ConnectionResetError):
        ask()
    server.fault = Fault("close")
    with pytest.raises(http.client.RemoteDisconnected):
        ask()
    server.fault = Fault("cut_reply")
    with pytest.raises(http.client.IncompleteRead):
        ask()
    server.fault = Fault("status", status=429, retry_after_s=2)
    assert ask()[:2] == (429, "2")
    server.fault = Fault("slow", delay_s=0.05)
    assert ask()[0] == 200


def test_hung_request_is_let_go_when_the_fault_ends(online: WandbServer, run_id: str) -> None:
    """A hanging server holds rows back until the fault is cleared."""
    struck_before = online.faults_struck
    run = start(run_id)
    online.fault = Fault("hang", "file_stream")
    for row in make_rows(10):
        run.log(row)
    assert online.wait_for(lambda: online.faults_struck > struck_before)
    assert online.runs[run_id].history == []
    online.fault = None
    run.finish()

    assert logged(online.runs[run_id]) == make_rows(10)


def test_fatal_status_ends_the_upload_for_good(online: WandbServer, run_id: str) -> None:
    """One such reply to the file stream, and the client sends no more, without an error."""
    online.fault = Fault("status", "file_stream", 409, times=1)
    train(run_id, make_rows(10))

    assert online.runs[run_id].history == []
    assert online.runs[run_id].state == "running"


def test_refused_login_fails_init(online: WandbServer, run_id: str) -> None:
    """A 401 to GraphQL reaches the script as an error."""
    online.fault = Fault("status", "graphql", 401)
    with pytest.raises(wandb.errors.CommError):
        start(run_id)

    assert run_id not in online.runs


def test_server_that_comes_back_gets_the_rest(online: WandbServer, run_id: str) -> None:
    """Stop and start keep the port and the runs; the client goes on where it was."""
    run = start(run_id)
    for row in make_rows(20):
        run.log(row)
    assert online.wait_for(lambda: online.runs[run_id].history_line_count == 20)
    online.stop()
    run.log({"last": 1})
    online.start()
    run.finish()

    assert logged(online.runs[run_id]) == [*make_rows(20), {"last": 1}]


def test_artifact_arrives_and_is_read_back(
    online: WandbServer, run_id: str, tmp_path: Path
) -> None:
    """Files, aliases and metadata reach the server, and the public API gives them again."""
    files = {"model.bin": b"weights" * 1000, "optim/state.bin": b"state", "empty": b""}
    run = start(run_id)
    draft = make_artifact(run_id, tmp_path / "files", files, metadata={"step": 3})
    run.log_artifact(draft, aliases=["best"]).wait()
    run.use_artifact(f"{run_id}:best")
    run.finish()
    api = wandb.Api()
    artifact = api.artifact(f"tester/p/{run_id}:best", type="model")
    folder = Path(artifact.download(str(tmp_path / "copy"), skip_cache=True))

    (received,) = versions(online, run_id)
    assert received.files == files
    assert received.manifest == {path: (len(c), md5_of(c)) for path, c in files.items()}
    assert (received.version, received.state, received.run_id) == ("v0", "COMMITTED", run_id)
    assert received.uploaded_bytes > 7005  # the manifest too
    assert {path: (folder / path).read_bytes() for path in files} == files
    assert (artifact.version, set(artifact.aliases)) == ("v0", {"best", "latest"})
    assert (artifact.metadata, artifact.state) == ({"step": 3}, "COMMITTED")
    assert [a.name for a in api.run(f"tester/p/{run_id}").logged_artifacts()] == [f"{run_id}:v0"]
    assert [a.name for a in api.run(f"tester/p/{run_id}").used_artifacts()] == [f"{run_id}:v0"]


def test_new_version_takes_the_aliases_that_it_is_given(
    online: WandbServer, run_id: str, tmp_path: Path
) -> None:
    """`latest` goes to the newest; what the server has makes no version and is not sent."""
    first, second = {"a": bytes(9999), "b": b"one"}, {"a": bytes(9999), "b": b"two"}
    run = start(run_id)
    run.log_artifact(make_artifact(run_id, tmp_path, first), aliases=["best", "step1"]).wait()
    run.log_artifact(make_artifact(run_id, tmp_path, second), aliases=["best"]).wait()
    run.log_artifact(make_artifact(run_id, tmp_path, second), aliases=["again"]).wait()
    run.finish()

    old, new = versions(online, run_id)
    assert (old.version, old.aliases) == ("v0", ["step1"])
    assert (new.version, set(new.aliases)) == ("v1", {"best", "latest", "again"})
    assert old.uploaded_bytes > 9999 > new.uploaded_bytes
    assert new.files == second


def test_file_that_changed_meanwhile_is_not_committed(
    online: WandbServer, run_id: str, tmp_path: Path
) -> None:
    """The server checks what is sent against the MD5 that was promised, as S3 does."""
    run = start(run_id)
    draft = make_artifact(run_id, tmp_path, {"model.bin": b"before"})
    (tmp_path / "model.bin").write_bytes(b"after!")
    with pytest.raises(ValueError, match="have failed"):
        run.log_artifact(draft).wait()
    run.finish()

    (received,) = versions(online, run_id)
    assert (received.state, received.version, received.files) == ("PENDING", None, {})
    assert online.runs[run_id].state == "finished"


def test_refused_operation_fails_the_artifact_only(
    online: WandbServer, run_id: str, tmp_path: Path
) -> None:
    """A fault can be meant for one GraphQL operation and answer with a GraphQL error."""
    run = start(run_id)
    struck_before = online.faults_struck
    online.fault = Fault("error", operation="CreateArtifact")
    with pytest.raises(ValueError, match="a fault of the test"):
        run.log_artifact(make_artifact(run_id, tmp_path, {"a": b"1"})).wait()
    run.log({"loss": 1})
    run.finish()

    assert versions(online, run_id) == []
    assert online.faults_struck == struck_before + 1  # the client does not try again
    assert logged(online.runs[run_id]) == [{"loss": 1}]


def test_passing_fault_of_the_upload_is_survived(
    online: WandbServer, run_id: str, tmp_path: Path
) -> None:
    """A reply that is lost once costs a second transfer and nothing else."""
    run = start(run_id)
    online.fault = Fault("lose_reply", "artifact", times=1)
    run.log_artifact(make_artifact(run_id, tmp_path, {"a": b"x" * 1000})).wait()
    run.finish()

    (received,) = versions(online, run_id)
    assert received.files == {"a": b"x" * 1000}
    assert received.uploaded_bytes > 2000


def test_offline_artifact_is_sent_by_wandb_sync(
    online: WandbServer, run_id: str, tmp_path: Path
) -> None:
    """The command uploads the files from where they lay when the run was recorded."""
    run = start(run_id, mode="offline", dir=str(tmp_path))
    draft = make_artifact(run_id, tmp_path / "files", {"a": b"offline"}, metadata={"step": 3})
    run.log_artifact(draft, aliases=["best"])
    run.finish()
    (directory,) = (tmp_path / "wandb").glob("offline-run-*")
    wandb_command = Path(sys.executable).with_name("wandb")
    subprocess.run([wandb_command, "sync", directory], check=True, capture_output=True, timeout=90)

    (received,) = versions(online, run_id)
    assert received.files == {"a": b"offline"}
    assert (received.state, set(received.aliases)) == ("COMMITTED", {"best", "latest"})
    assert (received.metadata, received.run_id) == ({"step": 3}, run_id)


def test_large_file_is_counted_and_not_kept(
    online: WandbServer, run_id: str, tmp_path: Path
) -> None:
    """A checkpoint of any size can be sent; its size and MD5 are what remains of it."""
    content = bytes(KEPT_BYTES + 1)
    run = start(run_id)
    run.log_artifact(make_artifact(run_id, tmp_path, {"large": content})).wait()
    run.finish()

    (received,) = versions(online, run_id)
    assert received.manifest == {"large": (len(content), md5_of(content))}
    assert received.files == {"large": None}
    assert received.uploaded_bytes > KEPT_BYTES


def test_upload_that_is_not_as_promised_is_refused(server: WandbServer) -> None:
    """The URL, the header Content-MD5 and the body must agree."""
    md5 = md5_of(b"promised")
    url = f"{server.url}/artifacts/id/{quote(md5, safe='')}"

    assert refusal(url, b"other", "PUT", content_md5=md5) == (400, "BadDigest")
    assert refusal(url, b"promised", "PUT") == (403, "SignatureDoesNotMatch")
    assert refusal(url, b"", "GET") == (404, "NoSuchKey")


def test_artifact_without_its_files_cannot_be_committed(server: WandbServer) -> None:
    """A commit before the uploads is a GraphQL error and makes no version."""
    names = {"entityName": "e", "projectName": "p", "artifactCollectionName": "a"}
    wanted = {**names, "artifactTypeName": "model", "digest": "d", "clientID": "c"}
    made = ask(server, "CreateArtifact", input=wanted)["data"]["createArtifact"]["artifact"]
    manifest = json.dumps({"contents": {"file": {"digest": md5_of(b"never sent")}}}).encode()
    md5 = md5_of(manifest)
    ask(server, "CreateArtifactManifest", artifactID=made["id"], digest=md5)
    url = f"{server.url}/artifacts/{made['id']}/{quote(md5, safe='')}"
    send(url, manifest, "PUT", content_md5=md5)
    reply = ask(server, "CommitArtifact", artifactID=made["id"])

    assert "['file']" in reply["errors"][0]["message"]
    assert [artifact.state for artifact in server.artifacts] == ["PENDING"]


def test_offset_sent_again_is_overwritten_also_when_zipped(server: WandbServer) -> None:
    """A retry of the file stream is idempotent, and gzip bodies are read."""
    ask(server, "UpsertBucket", name="r", project="p", entity="e")
    lines = {"wandb-history.jsonl": {"offset": 0, "content": ['{"_step":0}', '{"_step":1}']}}
    body = gzip.compress(json.dumps({"files": lines}).encode())
    for _ in range(2):
        reply = send(f"{server.url}/files/e/p/r/file_stream", body, content_encoding="gzip")

    assert reply == {"exitcode": None, "limits": {}, "stopped": False}
    assert server.runs["r"].history == [{"_step": 0}, {"_step": 1}]


def test_unknown_operation_is_named_and_remembered(server: WandbServer) -> None:
    """What the server cannot do shows, instead of looking like an empty answer."""
    reply = ask(server, "Weather")

    assert "Weather" in reply["errors"][0]["message"]
    assert server.unknown_operations == ["Weather"]


def test_unknown_path_is_refused_and_remembered(server: WandbServer) -> None:
    """So does a path that the server does not serve."""
    assert refusal(f"{server.url}/elsewhere", b"{}")[0] == 404
    assert server.unknown_operations == ["POST /elsewhere"]


def test_wait_for_says_when_nothing_came(server: WandbServer) -> None:
    """It returns False after its time instead of raising."""
    assert not server.wait_for(lambda: server.runs, timeout_s=0.01)


def test_server_runs_as_a_script_until_sigterm() -> None:
    """By hand it prints its URL first, serves, and leaves with code 0."""
    command = [sys.executable, "-m", "support.wandb_server", "--port", "0"]
    with subprocess.Popen(command, cwd=_TESTS, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        reply = send(f"{url}/graphql", b'{"query": "query Viewer { viewer { id } }"}')
        process.send_signal(signal.SIGTERM)

    assert reply["data"]["viewer"]["entity"] == "tester"
    assert process.returncode == 0
