"""The test server, held against the real wandb client."""

from __future__ import annotations

import gzip
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

import pytest
from wandb_server import Fault, ServerRun, WandbServer

pytest.importorskip("wandb", reason="these tests run the real wandb client")

_SERVER_FILE = Path(__file__).with_name("wandb_server.py")

_TRAIN = """
import json, sys, wandb
rows, finish_code, until_told = json.loads(sys.argv[1])
run = wandb.init(
    project="p", id="r1", name="first", resume="allow", config={"lr": 0.1, "opt": {"b": [1, 2]}},
    tags=["a", "b"], group="g", notes="n", save_code=False,
    settings=wandb.Settings(
        x_file_stream_transmit_interval=1, x_file_stream_retry_wait_min_seconds=1,
        x_graphql_retry_wait_min_seconds=1, x_disable_stats=True, disable_git=True,
    ),
)
print("starting step", run.starting_step)
for row in rows:
    run.log(row)
if until_told:
    print("logged", file=sys.stderr, flush=True)
    sys.stdin.readline()
    run.log({"last": 1})
if finish_code == "raise":
    raise ValueError("a failing script")
if finish_code == "preempt":
    run.mark_preempting()
    finish_code = 1
run.finish(finish_code)
"""

_READ_BACK = """
import json, wandb
run = wandb.Api().run("tester/p/r1")
print(json.dumps([
    run.lastHistoryStep, run.historyLineCount, run.state, run.summary["loss"], run.config,
    run.tags, run.name, len(list(run.scan_history())),
]))
"""


class Client:
    """Runs scripts with the real client, in a folder of their own."""

    def __init__(self, server: WandbServer, folder: Path) -> None:
        self.folder = folder
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
        folders = {f"WANDB_{name}_DIR": str(folder) for name in ("CACHE", "CONFIG", "DATA")}
        self.env = {**inherited, **folders, **server.env()}

    def start(self, script: str, *args: object) -> subprocess.Popen[str]:
        """Start a script; its arguments reach it as one JSON list."""
        return subprocess.Popen(
            [sys.executable, "-c", script, json.dumps(args)],
            env=self.env,
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, *args: object) -> tuple[int, str, str]:
        """Run a script to its end; return its exit code, stdout and stderr."""
        process = self.start(script, *args)
        out, err = process.communicate(timeout=90)
        return process.returncode, out, err

    def train(self, rows: list[dict[str, Any]], finish_code: int | str = 0) -> str:
        """Log rows as run r1; return what the script printed."""
        code, out, err = self.run(_TRAIN, rows, finish_code, False)
        assert code == (1 if finish_code == "raise" else 0), err
        return out


@pytest.fixture
def server() -> Iterator[WandbServer]:
    """A running server without faults."""
    with WandbServer() as server:
        yield server


@pytest.fixture
def client(server: WandbServer, tmp_path: Path) -> Client:
    """The real client, pointed at the server."""
    return Client(server, tmp_path)


def make_rows(count: int) -> list[dict[str, Any]]:
    """Return rows of several metrics."""
    return [{"loss": 1 / (i + 1), "train/step": i, "grad/norm": i * 0.7} for i in range(count)]


def logged(run: ServerRun) -> list[dict[str, Any]]:
    """Return the history without the client's own columns; NaN as text, for `==`."""
    plain = [{k: v for k, v in row.items() if not k.startswith("_")} for row in run.history]
    return [{k: "nan" if v != v else v for k, v in row.items()} for row in plain]


def post(url: str, body: object, **headers: str) -> Any:
    """Post JSON as the client does; return the reply."""
    data = json.dumps(body).encode()
    if headers.get("content_encoding") == "gzip":
        data = gzip.compress(data)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **names})
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


def test_online_run_arrives_exactly_as_it_was_logged(server: WandbServer, client: Client) -> None:
    """Rows, NaN and infinities included, config, names, console and files reach the server."""
    rows = make_rows(200)
    rows[3]["loss"], rows[4]["loss"] = math.nan, -math.inf
    client.train(rows)

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


def test_resumed_run_continues_after_its_last_step(server: WandbServer, client: Client) -> None:
    """The same id starts one step after the last and appends."""
    client.train(make_rows(50), finish_code=1)
    out = client.train(make_rows(30))

    run = server.runs["r1"]
    assert "starting step 50" in out
    assert logged(run) == make_rows(50) + make_rows(30)
    assert [row["_step"] for row in run.history] == list(range(80))
    assert (run.state, run.exit_code) == ("finished", 0)


def test_public_api_reads_a_run_back(server: WandbServer, client: Client) -> None:
    """wandb.Api answers what a delivery check asks."""
    client.train(make_rows(40))
    code, out, err = client.run(_READ_BACK)

    assert code == 0, err
    config = {"lr": 0.1, "opt": {"b": [1, 2]}}
    assert json.loads(out) == [39, 40, "finished", 1 / 40, config, ["a", "b"], "first", 40]
    assert server.unknown_operations == []


@pytest.mark.parametrize(
    ("finish_code", "state", "exit_code"),
    [(0, "finished", 0), (3, "failed", 3), ("raise", "failed", 1), ("preempt", "failed", 1)],
)
def test_exit_code_decides_the_state(
    server: WandbServer, client: Client, finish_code: int | str, state: str, exit_code: int
) -> None:
    """finish(code), an uncaught exception and a preemption mark leave their trace."""
    client.train(make_rows(1), finish_code)

    run = server.runs["r1"]
    assert (run.state, run.exit_code) == (state, exit_code)
    assert run.preempting is (finish_code == "preempt")


@pytest.mark.parametrize("kind", ["status", "close", "lose_reply"])
@pytest.mark.parametrize("target", ["any", "file_stream"])
def test_passing_fault_leaves_each_row_once(
    server: WandbServer,
    client: Client,
    kind: Literal["status", "close", "lose_reply"],
    target: Literal["any", "file_stream"],
) -> None:
    """The client retries what failed for a while, and nothing is lost or doubled."""
    server.fault = Fault(kind, target, times=2)
    client.train(make_rows(100))

    assert server.faults_struck == 2
    assert logged(server.runs["r1"]) == make_rows(100)
    assert server.runs["r1"].state == "finished"


def test_hung_request_is_let_go_when_the_fault_ends(server: WandbServer, client: Client) -> None:
    """A hanging server holds rows back until the fault is cleared."""
    server.fault = Fault("hang", "file_stream")
    process = client.start(_TRAIN, make_rows(10), 0, False)
    assert server.wait_for(lambda: server.faults_struck)
    assert server.runs["r1"].history == []
    server.fault = None
    process.communicate(timeout=90)

    assert logged(server.runs["r1"]) == make_rows(10)


@pytest.mark.parametrize("status", [401, 404, 409])
def test_fatal_status_ends_the_upload_for_good(
    server: WandbServer, client: Client, status: int
) -> None:
    """One such reply to the file stream, and the client sends no more, with exit code 0."""
    server.fault = Fault("status", "file_stream", status, times=1)
    client.train(make_rows(10))

    assert server.runs["r1"].history == []
    assert server.runs["r1"].state == "running"


def test_refused_login_fails_init(server: WandbServer, client: Client) -> None:
    """A 401 to GraphQL reaches the script as an error."""
    server.fault = Fault("status", "graphql", 401)
    code, _, err = client.run(_TRAIN, [], 0, False)

    assert code == 1
    assert "CommError" in err
    assert server.runs == {}


def test_server_that_comes_back_gets_the_rest(server: WandbServer, client: Client) -> None:
    """Stop and start keep the port and the runs; the client goes on where it was."""
    process = client.start(_TRAIN, make_rows(20), 0, True)
    assert process.stdin is not None
    assert server.wait_for(
        lambda: "r1" in server.runs and server.runs["r1"].history_line_count == 20
    )
    server.stop()
    process.stdin.write("go on\n")
    process.stdin.flush()
    server.start()
    process.communicate(timeout=90)

    assert logged(server.runs["r1"]) == [*make_rows(20), {"last": 1}]


def test_offset_sent_again_is_overwritten_also_when_zipped(server: WandbServer) -> None:
    """A retry of the file stream is idempotent, and gzip bodies are read."""
    run = {"name": "r", "project": "p", "entity": "e"}
    post(f"{server.url}/graphql", {"query": "mutation UpsertBucket { x }", "variables": run})
    lines = {"wandb-history.jsonl": {"offset": 0, "content": ['{"_step":0}', '{"_step":1}']}}
    for _ in range(2):
        stream = f"{server.url}/files/e/p/r/file_stream"
        reply = post(stream, {"files": lines}, content_encoding="gzip")

    assert reply == {"exitcode": None, "limits": {}}
    assert server.runs["r"].history == [{"_step": 0}, {"_step": 1}]


def test_unknown_operation_is_named_and_remembered(server: WandbServer) -> None:
    """What the server cannot do shows, instead of looking like an empty answer."""
    reply = post(f"{server.url}/graphql", {"query": "query Weather($x: Int) { weather }"})

    assert "Weather" in reply["errors"][0]["message"]
    assert server.unknown_operations == ["Weather"]


def test_unknown_path_is_refused_and_remembered(server: WandbServer) -> None:
    """So does a path that the server does not serve."""
    with pytest.raises(urllib.error.HTTPError) as raised:
        post(f"{server.url}/elsewhere", {})
    raised.value.close()

    assert raised.value.code == 404
    assert server.unknown_operations == ["POST /elsewhere"]


def test_wait_for_says_when_nothing_came(server: WandbServer) -> None:
    """It returns False after its time instead of raising."""
    assert not server.wait_for(lambda: server.runs, timeout_s=0.01)


def test_server_runs_as_a_script_until_sigterm() -> None:
    """By hand it prints its URL first, serves, and leaves with code 0."""
    command = [sys.executable, str(_SERVER_FILE), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        reply = post(f"{url}/graphql", {"query": "query Viewer { viewer { id } }"})
        process.send_signal(signal.SIGTERM)

    assert reply["data"]["viewer"]["entity"] == "tester"
    assert process.returncode == 0
