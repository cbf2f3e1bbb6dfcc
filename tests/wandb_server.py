"""A small W&B-compatible server for tests, on 127.0.0.1, with faults that can be switched on.

It speaks as much of the protocol as the wandb client needs to log, resume and read back runs:

    POST /graphql                                     one entry of `_OPERATIONS` each
    POST /files/{entity}/{project}/{run}/file_stream  history, events, summary, console
    PUT  /uploads/{entity}/{project}/{run}/{name}     the files of a run

By hand: `python tests/wandb_server.py --port 8080` prints its URL and serves until SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit

Json = dict[str, Any]
Target = Literal["graphql", "file_stream", "upload"]

_HISTORY = "wandb-history.jsonl"
_EVENTS = "wandb-events.jsonl"
_SUMMARY = "wandb-summary.json"
_CONSOLE = "output.log"


@dataclass(frozen=True)
class Fault:
    """What goes wrong with the next requests: `status` refuses them with that HTTP status, `hang`
    holds them until the fault is replaced or the server stops, `close` drops the connection
    unanswered, `lose_reply` carries the request out and then drops the connection.
    """

    kind: Literal["status", "hang", "close", "lose_reply"]
    target: Target | Literal["any"] = "any"
    status: int = 503
    times: int | None = None
    """How many requests it strikes; None: all until it is replaced."""


@dataclass
class ServerRun:
    """One run as the server knows it.

    Threads: the server's threads write it under the server's lock, any thread reads it.
    """

    id: str
    entity: str
    project: str
    lock: threading.Condition = field(repr=False)
    display_name: str = ""
    raw_config: Json = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    group: str | None = None
    notes: str | None = None
    host: str | None = None
    program: str | None = None
    state: str = "running"
    exit_code: int | None = None
    preempting: bool = False
    upserts: int = 0
    """How many UpsertBucket calls named it."""
    files: dict[str, bytes] = field(default_factory=dict)
    """The files that were uploaded whole, by name."""
    uploaded: list[str] = field(default_factory=list)
    """The names that the client reported as uploaded."""
    summary_json: str = "{}"
    streams: dict[str, dict[int, str]] = field(default_factory=dict)
    """The lines of the file stream: file name, then offset."""

    @property
    def storage_id(self) -> str:
        """The id that the server gives to the run, unlike `id`, which the client chose."""
        return f"{self.entity}/{self.project}/{self.id}"

    @property
    def config(self) -> Json:
        """The config as the user set it."""
        return {key: item["value"] for key, item in self.raw_config.items() if key != "_wandb"}

    @property
    def summary(self) -> Json:
        """The summary, parsed."""
        return dict(json.loads(self.summary_json))

    @property
    def history(self) -> list[Json]:
        """The history, parsed and in the order of the offsets."""
        return [json.loads(line) for line in self.lines(_HISTORY)]

    @property
    def history_line_count(self) -> int:
        """How many lines the history has; cheaper than `len(run.history)`."""
        return len(self.streams.get(_HISTORY, {}))

    @property
    def console(self) -> str:
        """What the script printed, as the client sent it."""
        return "".join(line.rstrip("\n") + "\n" for line in self.lines(_CONSOLE))

    def lines(self, name: str) -> list[str]:
        """Return the lines of one streamed file in the order of their offsets."""
        with self.lock:
            return [line for _, line in sorted(self.streams.get(name, {}).items())]

    def upsert(self, variables: Json) -> None:
        """Take over what one UpsertBucket call sets; what it leaves out stays."""
        self.upserts += 1
        self.display_name = variables.get("displayName") or self.display_name or self.id
        self.group = variables.get("groupName") or self.group
        self.notes = variables.get("notes") or self.notes
        self.host = variables.get("host") or self.host
        self.program = variables.get("program") or self.program
        if variables.get("tags") is not None:
            self.tags = list(variables["tags"])
        if variables.get("config"):
            self.raw_config = json.loads(variables["config"])
        self.summary_json = variables.get("summaryMetrics") or self.summary_json
        by_client = not variables.get("id")  # the public API edits a run by its storage id
        if by_client and self.state != "running":
            self.state, self.exit_code, self.preempting = "running", None, False

    def stream(self, post: Json) -> None:
        """Take over one file_stream post. An offset that is sent again is overwritten."""
        for name, chunk in (post.get("files") or {}).items():
            lines = dict(enumerate(chunk["content"], chunk.get("offset", 0)))
            self.streams.setdefault(name, {}).update(lines)
            if name == _SUMMARY and lines:
                self.summary_json = lines[max(lines)]
        self.uploaded = self.uploaded + (post.get("uploaded") or [])
        self.preempting = self.preempting or bool(post.get("preempting"))
        if post.get("complete"):
            self.exit_code = int(post.get("exitcode") or 0)
            self.state = "failed" if self.exit_code else "finished"

    def node(self) -> Json:
        """Return the run as GraphQL shows it: every field that some query asks for."""
        history, events = self.lines(_HISTORY), self.lines(_EVENTS)
        last_step = max((json.loads(line).get("_step", -1) for line in history[-1:]), default=-1)
        owner = {"id": self.entity, "name": self.entity}
        telemetry = self.raw_config.get("_wandb", {}).get("value", {}).get("t")
        not_kept = ("commit", "createdAt", "description", "heartbeatAt", "jobType", "sweepName")
        return {
            **dict.fromkeys(not_kept),
            "id": self.storage_id,
            "projectId": "1",
            "project": {"id": self.project, "name": self.project, "entity": owner},
            "name": self.id,
            "displayName": self.display_name,
            "notes": self.notes,
            "group": self.group,
            "tags": self.tags,
            "state": self.state,
            "readOnly": False,
            "user": {"name": self.entity, "username": self.entity},
            "config": json.dumps(self.raw_config),
            "wandbConfig": json.dumps({"t": telemetry}),
            "summaryMetrics": self.summary_json,
            "systemMetrics": events[-1] if events else "{}",
            "historyLineCount": len(history),
            "eventsLineCount": len(events),
            "logLineCount": len(self.lines(_CONSOLE)),
            "historyTail": json.dumps(history[-1:]),
            "eventsTail": json.dumps(events[-1:]),
            "historyKeys": {"lastStep": last_step, "sets": [], "keys": {}},
        }


class WandbServer:
    """The server: start it with `with`, point clients at it with `env()`, then read `runs`.

    Threads: one per connection, daemons. All state is guarded by one condition, which is notified
    after each request; the attributes may be read from any thread.
    """

    entity = "tester"

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.unknown_operations: list[str] = []
        """What clients asked for and this server does not know, as operation or as path."""
        self.faults_struck = 0
        """How many requests any fault has struck."""
        self._condition = threading.Condition(threading.RLock())
        self._runs: dict[str, ServerRun] = {}
        self._fault: Fault | None = None
        self._fault_left: int | None = None
        self._fault_over = threading.Event()
        self._http: _Listener | None = None

    def __enter__(self) -> WandbServer:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The base URL that clients are given."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def runs(self) -> dict[str, ServerRun]:
        """The runs by the id that the client chose."""
        with self._condition:
            return {run.id: run for run in self._runs.values()}

    @property
    def fault(self) -> Fault | None:
        """What goes wrong at present. Setting it starts its count and lets go of hung requests."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        with self._condition:
            self._fault_over.set()
            self._fault, self._fault_over = fault, threading.Event()
            self._fault_left = fault.times if fault else None

    def env(self) -> dict[str, str]:
        """Return the environment variables that point a wandb client at this server."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": "local" + "0" * 40,
            "WANDB_ENTITY": self.entity,
            "WANDB_ERROR_REPORTING": "false",
        }

    def start(self) -> None:
        """Listen; after `stop`, on the same port and with the runs so far."""
        self._http = _Listener(("127.0.0.1", self.port), self)
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening and cut every connection, as a server that goes away does."""
        if self._http is None:
            return
        self._http.shutdown()
        self._http.server_close()
        with self._condition:
            self._fault_over.set()
            self._fault_over = threading.Event()
        self._http.cut_connections()
        self._http = None

    def wait_for(self, predicate: Callable[[], object], timeout_s: float = 30.0) -> bool:
        """Wait until `predicate` holds, asking after each request; return whether it came to."""
        with self._condition:
            return bool(self._condition.wait_for(predicate, timeout_s))

    def mark_crashed(self, run_id: str) -> None:
        """Give up on a run that sends no heartbeat any more, as W&B does after some minutes."""
        with self._condition:
            self.runs[run_id].state = "crashed"
            self._condition.notify_all()

    def take_fault(self, target: str) -> tuple[Fault, threading.Event] | None:
        """Return the fault that strikes this request, and the event that ends it."""
        with self._condition:
            fault = self._fault
            if fault is None or self._fault_left == 0 or fault.target not in ("any", target):
                return None
            if self._fault_left is not None:
                self._fault_left -= 1
            self.faults_struck += 1
            self._condition.notify_all()
            return fault, self._fault_over

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Json]:
        """Carry out one request; return the HTTP status and the reply."""
        with self._condition:
            reply = self._route(method, path, body)
            self._condition.notify_all()
        return reply

    def find(self, variables: Json) -> ServerRun | None:
        """Return the run that a query's variables name, in any of the ways they do it."""
        run_id, entity = variables.get("run") or variables.get("name"), variables.get("entity")
        named = f"{entity or self.entity}/{variables.get('project')}/{run_id}"
        return self._runs.get(variables.get("id") or named)

    def upsert(self, variables: Json) -> Json:
        """Create or update a run."""
        run = self.find(variables)
        inserted = run is None
        if run is None:
            entity, project = variables.get("entity") or self.entity, variables["project"]
            run = ServerRun(variables["name"], entity, project, self._condition)
            self._runs[run.storage_id] = run
        run.upsert(variables)
        return {"upsertBucket": {"bucket": run.node(), "inserted": inserted}}

    def _route(self, method: str, path: str, body: bytes) -> tuple[int, Json]:
        parts = [unquote(part) for part in path.strip("/").split("/")]
        run = self._runs.get("/".join(parts[1:4]))
        match [method, *parts]:
            case ["POST", "graphql"]:
                return 200, self._graphql(json.loads(body))
            case ["POST", "files", _, _, _, "file_stream"] if run is not None:
                run.stream(json.loads(body))
                return 200, {"exitcode": None, "limits": {}}
            case ["PUT", "uploads", _, _, _, name] if run is not None:
                run.files = run.files | {name: body}
                return 200, {}
            # The bytes of artifacts would get a case here.
        self.unknown_operations.append(f"{method} {path}")
        return 404, {"error": f"{method} {path}: not found"}

    def _graphql(self, request: Json) -> Json:
        found = re.search(r"\b(?:query|mutation)\s+(\w+)", request["query"])
        name = found[1] if found else "(unnamed)"
        operation = _OPERATIONS.get(name)
        if operation is None:
            self.unknown_operations.append(name)
            return {"data": None, "errors": [{"message": f"unknown operation: {name}"}]}
        return {"data": operation(self, request.get("variables") or {})}


def _viewer(server: WandbServer, variables: Json) -> Json:
    person: Json = dict.fromkeys(("entity", "username", "name"), server.entity)
    person |= {"id": "1", "email": "", "flags": "{}", "admin": False, "deletedAt": None}
    person |= {"apiKeys": None, "teams": {"edges": [{"node": {"name": server.entity}}]}}
    return {"viewer": person}


def _project_run(server: WandbServer, variables: Json) -> Json:
    run = server.find(variables)
    return {"project": {"run": run.node() if run else None}}


def _resume_status(server: WandbServer, variables: Json) -> Json:
    run, entity = server.find(variables), variables.get("entity") or server.entity
    model = {"id": variables.get("project"), "name": variables.get("project")}
    owner = {"id": entity, "name": entity}
    return {"model": {**model, "entity": owner, "bucket": run.node() if run else None}}


def _create_run_files(server: WandbServer, variables: Json) -> Json:
    run = server.find(variables)
    if run is None:
        return {"createRunFiles": None}
    base = f"{server.url}/uploads/{quote(run.entity)}/{quote(run.project)}/{quote(run.id)}"
    files = [{"name": n, "uploadUrl": f"{base}/{quote(n, safe='')}"} for n in variables["files"]]
    return {"createRunFiles": {"runID": run.storage_id, "uploadHeaders": [], "files": files}}


def _history_page(server: WandbServer, variables: Json) -> Json:
    run = server.find(variables)
    if run is None:
        return {"project": {"run": None}}
    steps = range(variables["minStep"], variables["maxStep"])
    page = [line for line in run.lines(_HISTORY) if json.loads(line).get("_step") in steps]
    return {"project": {"run": {"history": page[: variables["pageSize"]]}}}


_NO_PARQUET: Json = {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": []}}}}

_OPERATIONS: dict[str, Callable[[WandbServer, Json], Json]] = {
    # the account
    "Viewer": _viewer,
    "GetViewer": _viewer,
    "GetDefaultEntity": _viewer,
    "ServerFeaturesQuery": lambda server, variables: {"serverInfo": {"features": []}},
    "OrganizationCoreWeaveOrganizationID": lambda server, variables: {"entity": None},
    # writing runs
    "RunResumeStatus": _resume_status,
    "UpsertBucket": lambda server, variables: server.upsert(variables),
    "CreateRunFiles": _create_run_files,
    # reading runs
    "Run": _project_run,
    "RunState": _project_run,
    "RunHistoryKeys": _project_run,
    "HistoryPage": _history_page,
    "RunParquetHistory": lambda server, variables: _NO_PARQUET,
    # artifacts: CreateArtifact, CommitArtifact and so on would stand here
}


class _Listener(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], wandb_server: WandbServer) -> None:
        self.wandb_server = wandb_server
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def cut_connections(self) -> None:
        for connection in self._connections.copy():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about cut connections; anything else is this server's own mistake."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        server, path = self.server.wandb_server, urlsplit(self.path).path
        struck = server.take_fault(_target(path))
        if struck is None:
            self._reply(*server.answer(self.command, path, body))
            return
        fault, over = struck
        if fault.kind == "status":
            self._reply(fault.status, {"error": "a fault of the test"})
            return
        if fault.kind == "hang":
            over.wait()
        if fault.kind == "lose_reply":
            server.answer(self.command, path, body)
        self.close_connection = True

    do_PUT = do_GET = do_POST

    def _reply(self, status: int, reply: Json) -> None:
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: a test reads the server's state instead."""


def _target(path: str) -> str:
    if path.endswith("/file_stream"):
        return "file_stream"
    return "graphql" if path == "/graphql" else "upload"


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="A small W&B-compatible server for tests.")
    parser.add_argument("--port", type=int, default=0, help="0, the default: any free port")
    leave = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: leave.set())
    with WandbServer(parser.parse_args().port) as server:
        print(server.url, flush=True)
        leave.wait()


if __name__ == "__main__":
    main()
