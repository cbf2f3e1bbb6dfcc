"""Serve the page to browsers on this machine, and to nobody else.

Only the loopback interface is listened on. A request must carry the token that stands in the URL
which is printed at the start, as other users of this machine can connect, too. Its `Host` must be
a name of this machine: a page from elsewhere whose name was made to point here (DNS rebinding) is
turned away. There is nothing to be changed: only GET is answered.
"""

from __future__ import annotations

import hmac
import secrets
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import orjson

from fasttrack.errors import RunUnreadableError
from fasttrack.views.web.live import LiveRuns
from fasttrack.views.web.page import make_page

if TYPE_CHECKING:
    from pathlib import Path

ADDRESS = "127.0.0.1"
_NAMES = ("127.0.0.1", "localhost", "::1")  # the port may be another: that of a tunnel's near end
_TIMEOUT_S = 60.0  # of a connection on which nothing comes
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",  # the rest stands in the page
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_TEXT, _HTML, _JSON, _BYTES = (
    "text/plain; charset=utf-8",
    "text/html; charset=utf-8",
    "application/json",
    "application/octet-stream",
)


class RunServer(ThreadingHTTPServer):
    """The page, and what it asks for, of the runs under a directory."""

    daemon_threads = True

    def __init__(self, base: Path, port: int = 0) -> None:
        """Listen, but answer nobody before `serve_forever`.

        Args:
            base: the parent of `wandb/`.
            port: where to listen; 0: at a free one.

        Raises:
            FasttrackError: Bokeh is missing.
            OSError: the port is taken.
        """
        self.page = make_page([], "fasttrack", live=True)
        self.runs = LiveRuns(base)
        self.token = secrets.token_urlsafe(24)
        super().__init__((ADDRESS, port), _Handler)

    @property
    def url(self) -> str:
        """What to open in a browser."""
        return f"http://{ADDRESS}:{self.server_port}/?token={self.token}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a browser that left."""


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: RunServer
    server_version = "fasttrack"
    sys_version = ""
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:
        """Answer a browser."""
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if not _is_ours(self.headers.get("Host", "")):
            self._refuse(HTTPStatus.FORBIDDEN, "the page is served under this machine's names only")
        elif not self._has_token(query):
            told = "the token is missing or wrong: open the URL that 'fasttrack ui' has printed"
            self._refuse(HTTPStatus.FORBIDDEN, told)
        elif url.path == "/":
            self._answer(HTTPStatus.OK, _HTML, self.server.page)
        elif url.path == "/api/runs":
            self._answer_with_runs()
        elif url.path in ("/api/run", "/api/media"):
            self._answer_with_run(query.get("key", ""), media=url.path == "/api/media")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")

    def _only_get(self) -> None:
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "nothing can be changed here", Allow="GET")

    do_DELETE = do_HEAD = do_OPTIONS = do_PATCH = do_POST = do_PUT = _only_get

    def _has_token(self, query: dict[str, str]) -> bool:
        scheme, _, told = self.headers.get("Authorization", "").partition(" ")
        given = told if scheme == "Bearer" else query.get("token", "")
        return hmac.compare_digest(given.encode(errors="replace"), self.server.token.encode())

    def _answer_with_runs(self) -> None:
        try:
            listed = self.server.runs.listing()
        except OSError as error:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"the runs cannot be listed: {error}")
        else:
            self._answer(HTTPStatus.OK, _JSON, orjson.dumps(listed))

    def _answer_with_run(self, key: str, *, media: bool) -> None:
        runs = self.server.runs
        try:
            found = runs.media(key) if media else runs.pack(key)
        except RunUnreadableError as error:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
            return
        if found is None:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such run")
        elif isinstance(found, bytes):
            self._answer(HTTPStatus.OK, _BYTES, found)
        else:
            self._answer(HTTPStatus.OK, _JSON, orjson.dumps(found))

    def _refuse(self, status: HTTPStatus, why: str, **headers: str) -> None:
        self._answer(status, _TEXT, f"{why}\n".encode(errors="replace"), headers)

    def _answer(
        self, status: HTTPStatus, kind: str, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        told = {"Content-Type": kind, "Content-Length": str(len(body)), **_HEADERS}
        for name, value in {**told, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing of what was asked for: the token stands in it."""


def _is_ours(host: str) -> bool:
    """Return whether a request's `Host` is a name of this machine, with any port."""
    try:
        return urlsplit(f"//{host}").hostname in _NAMES
    except ValueError:
        return False
