"""A small W&B-compatible server for tests, on 127.0.0.1, with faults that can be switched on.

It speaks as much of the protocol as the wandb client needs to log, resume and read back runs and
their artifacts:

    POST /graphql                                     the operations of runs and of artifacts
    POST /files/{entity}/{project}/{run}/file_stream  history, events, summary, console
    PUT  /uploads/{entity}/{project}/{run}/{name}     the files of a run
    PUT  /artifacts/{artifact}/{md5}                  the files of an artifact; GET reads them back

By hand, in tests/: `python -m support.wandb_server --port 8080` prints its URL and serves until
SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import re
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from support.wandb_server_artifacts import ArtifactStore, RefusedError, ServerArtifact, Upload
from support.wandb_server_runs import Json, RunStore, ServerRun

_NO_LINGER = struct.pack("ii", 1, 0)

Target = Literal["graphql", "file_stream", "upload", "artifact"]


@dataclass(frozen=True)
class Fault:
    """What goes wrong with the next requests: `status` refuses them with that HTTP status, `error`
    with status 200 and a GraphQL error, `hang` holds them until the fault is replaced or the server
    stops, `slow` carries them out after `delay_s`, `close` drops the connection unanswered, `reset`
    does so with a TCP reset, `lose_reply` carries the request out and then drops the connection,
    `cut_reply` does so in the middle of the reply's body, `late_reply` carries the request out and
    holds the reply until the fault is replaced or the server stops.
    """

    kind: Literal[
        "status",
        "error",
        "hang",
        "slow",
        "close",
        "reset",
        "lose_reply",
        "cut_reply",
        "late_reply",
    ]
    target: Target | Literal["any"] = "any"
    """`upload` is for the files of runs, `artifact` for those of artifacts."""
    status: int = 503
    times: int | None = None
    """How many requests it strikes; None: all until it is replaced."""
    delay_s: float = 0.5
    """How long `slow` waits; it ends at once when the fault is replaced."""
    retry_after_s: int | None = None
    """What `status` tells the client to wait, as `Retry-After`."""
    operation: str | None = None
    """The GraphQL operation that it strikes, such as `CreateArtifact`; None: not only one."""
    given: str | None = None
    """The variable that must be given with it, such as `id`, by which `UpsertBucket` names a run
    that is gone on with; None: any or none."""

    def strikes(self, target: str, request: Json | None) -> bool:
        """Return whether it is meant for such a request, which says so much if it is GraphQL."""
        if self.target not in ("any", target):
            return False
        if request is None:
            return self.operation is None
        variables = request.get("variables") or {}
        return self.operation in (None, _operation(request["query"])) and (
            self.given is None or variables.get(self.given) is not None
        )


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
        self.requests = 0
        """How many requests were carried out."""
        self._condition = threading.Condition(threading.RLock())
        self._run_store = RunStore(self.entity, self._condition)
        self._artifact_store = ArtifactStore()
        self._operations = {**self._run_store.operations, **self._artifact_store.operations}
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
            return {run.id: run for run in self._run_store.runs.values()}

    def openings(self, run_id: str) -> int:
        """Return how often clients asked where a run stands, as they do when they open it."""
        with self._condition:
            return self._run_store.openings[run_id]

    @property
    def artifacts(self) -> list[ServerArtifact]:
        """The artifacts in the order in which they were created, those not committed included."""
        with self._condition:
            return self._artifact_store.artifacts

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
        self._run_store.url = self._artifact_store.url = self.url
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

    def add_run(self, state: Json) -> ServerRun:
        """Know a run from now on, as if a client had sent it; `state` has the fields of it."""
        with self._condition:
            run = ServerRun(lock=self._condition, **state)
            self._run_store.runs[run.storage_id] = run
            self._condition.notify_all()
        return run

    def mark_crashed(self, run_id: str) -> None:
        """Give up on a run that sends no heartbeat any more, as W&B does after some minutes."""
        with self._condition:
            self.runs[run_id].state = "crashed"
            self._condition.notify_all()

    def take_fault(self, target: str, request: Json | None) -> tuple[Fault, threading.Event] | None:
        """Return the fault that strikes this request, and the event that ends it."""
        with self._condition:
            fault = self._fault
            if fault is None or self._fault_left == 0 or not fault.strikes(target, request):
                return None
            if self._fault_left is not None:
                self._fault_left -= 1
            self.faults_struck += 1
            self._condition.notify_all()
            return fault, self._fault_over

    def answer(self, method: str, path: str, body: bytes | Upload) -> tuple[int, Json | bytes]:
        """Carry out one request; return the HTTP status and the reply."""
        with self._condition:
            self.requests += 1
            reply = self._route(method, path, body)
            self._condition.notify_all()
        return reply

    def _route(self, method: str, path: str, body: bytes | Upload) -> tuple[int, Json | bytes]:
        parts = [unquote(part) for part in path.strip("/").split("/")]
        run = self._run_store.runs.get("/".join(parts[1:4]))
        match [method, *parts]:
            case ["PUT", "artifacts", artifact_id, md5] if isinstance(body, Upload):
                return self._artifact_store.put(artifact_id, md5, body)
            case ["GET", "artifacts", _, md5]:
                return self._artifact_store.get(md5)
            case ["POST", "graphql"] if isinstance(body, bytes):
                return 200, self._graphql(json.loads(body))
            case ["POST", "files", _, _, _, "file_stream"] if run and isinstance(body, bytes):
                run.stream(json.loads(body))
                return 200, {"exitcode": None, "limits": {}, "stopped": run.stopped}
            case ["PUT", "uploads", _, _, _, name] if run and isinstance(body, bytes):
                run.files = run.files | {name: body}
                return 200, {}
        self.unknown_operations.append(f"{method} {path}")
        return 404, {"error": f"{method} {path}: not found"}

    def _graphql(self, request: Json) -> Json:
        name = _operation(request["query"])
        if name not in self._operations:
            self.unknown_operations.append(name)
            return _graphql_error(f"unknown operation: {name}")
        try:
            return {"data": self._operations[name](request.get("variables") or {})}
        except RefusedError as refusal:
            return _graphql_error(str(refusal))


def _operation(query: str) -> str:
    found = re.search(r"\b(?:query|mutation)\s+(\w+)", query)
    return found[1] if found else "(unnamed)"


def _graphql_error(message: str) -> Json:
    return {"data": None, "errors": [{"message": message}]}


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
        server, path = self.server.wandb_server, urlsplit(self.path).path
        target, request = _target(path), None
        body = self._body(target)
        if target == "graphql" and isinstance(body, bytes):
            request = json.loads(body)
        struck = server.take_fault(target, request)
        if struck is None:
            self._reply(*server.answer(self.command, path, body))
            return
        fault, over = struck
        if fault.kind in ("status", "error"):
            status = fault.status if fault.kind == "status" else 200
            self._reply(status, _graphql_error("a fault of the test"), fault.retry_after_s)
            return
        if fault.kind == "slow":
            over.wait(fault.delay_s)
            self._reply(*server.answer(self.command, path, body))
            return
        if fault.kind == "late_reply":
            reply = server.answer(self.command, path, body)
            over.wait()
            self._reply(*reply)
            return
        if fault.kind == "hang":
            over.wait()
        if fault.kind == "lose_reply":
            server.answer(self.command, path, body)
        if fault.kind == "cut_reply":
            self._reply(*server.answer(self.command, path, body), cut=True)
        if fault.kind == "reset":  # closed while it lingers for no time: RST in place of FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            os.close(self.connection.detach())  # socketserver would shut it down first: a FIN
        self.close_connection = True

    do_PUT = do_GET = do_POST

    def _body(self, target: Target) -> bytes | Upload:
        length = int(self.headers.get("Content-Length", 0))
        if target == "artifact":
            return Upload.receive(self.rfile, length, self.headers.get("Content-MD5"))
        body = self.rfile.read(length)
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(
        self,
        status: int,
        reply: Json | bytes,
        retry_after_s: int | None = None,
        *,
        cut: bool = False,
    ) -> None:
        data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        kind = "application/octet-stream" if isinstance(reply, bytes) else "application/json"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if retry_after_s is not None:
            self.send_header("Retry-After", str(retry_after_s))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: a test reads the server's state instead."""


def _target(path: str) -> Target:
    if path == "/graphql":
        return "graphql"
    if path.endswith("/file_stream"):
        return "file_stream"
    return "artifact" if path.startswith("/artifacts/") else "upload"


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
