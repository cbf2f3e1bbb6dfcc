"""A webhook on loopback that takes what Slack's takes, and can refuse or hang."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast


class WebhookServer:
    """Use it with `with`; `texts` are those that it took.

    Threads: one per connection; the attributes from any.
    """

    def __init__(self) -> None:
        """Listen on a free port."""
        self.status = 200
        """What it answers with."""
        self.hangs = threading.Event()
        """While it is set nothing is answered."""
        self.texts: list[str] = []
        self.keys: list[str] = []
        """Their `Idempotency-Key`s."""
        self.requests = 0
        self._let_go = threading.Event()
        self._condition = threading.Condition()
        self._http = _Listener(("127.0.0.1", 0), _Handler)
        self._http.hook = self

    @property
    def url(self) -> str:
        """Its address, a secret in its path."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/services/very-secret-path"

    def __enter__(self) -> WebhookServer:
        """Serve."""
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._let_go.set()
        self._http.shutdown()
        self._http.server_close()

    def wait_for(self, count: int, timeout_s: float = 120.0) -> list[str]:
        """Return the texts once there are `count` of them; fail if they do not come."""
        with self._condition:
            came = self._condition.wait_for(lambda: len(self.texts) >= count, timeout_s)
            assert came, f"{len(self.texts)} of {count} came: {self.texts}"
            return list(self.texts)

    def wait_for_requests(self, count: int, timeout_s: float = 60.0) -> None:
        """Wait until it was asked so often, whatever it answered."""
        with self._condition:
            assert self._condition.wait_for(lambda: self.requests >= count, timeout_s)

    def answer(self, told: Any, key: str) -> int | None:
        """Take a request in; return the status to answer with, None: nothing."""
        with self._condition:
            self.requests += 1
            status = self.status
            if not self.hangs.is_set() and status == 200:
                assert set(told) == {"text"}
                self.texts.append(told["text"])
                self.keys.append(key)
            self._condition.notify_all()
        if self.hangs.is_set():
            self._let_go.wait()
            return None
        return status


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    hook: WebhookServer


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        hook = cast("_Listener", self.server).hook
        status = hook.answer(json.loads(body), self.headers.get("Idempotency-Key", ""))
        if status is not None:
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", hook.url)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""
