"""Who is served: a browser on this machine that has the URL, and nobody else; nothing changes."""

from __future__ import annotations

import http.client
import threading
from typing import TYPE_CHECKING

import orjson
import pytest
from support.journals import append, finish, rows_of, write_attempt
from support.late import need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fasttrack.views.web.server import RunServer

need("bokeh", "pages need Bokeh")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunServer]:
    """A server of a directory with two runs."""
    from fasttrack.views.web.server import RunServer

    write_attempt(tmp_path, "ab12", *rows_of({"a": [1.0, 2.0]}), finish(), time_s=100.0)
    write_attempt(tmp_path, "cd34", *rows_of({"a": [1.0]}), time_s=200.0)
    with RunServer(tmp_path) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(
    server: RunServer, path: str, method: str = "GET", *, token: str | None = None, host: str = ""
) -> tuple[int, bytes, http.client.HTTPMessage]:
    """Return status, body and headers of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    headers = {"Authorization": f"Bearer {server.token if token is None else token}"}
    try:
        connection.request(method, path, headers=headers | ({"Host": host} if host else {}))
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def test_runs_are_listed_and_read(server: RunServer, tmp_path: Path) -> None:
    """The newest first; a version changes with what is written, and only then."""
    status, body, headers = ask(server, "/api/runs")
    listed = orjson.loads(body)

    assert status == 200
    assert listed["directory"] == str(tmp_path)
    assert [(run["key"], run["state"]) for run in listed["runs"]] == [
        ("cd34", "crashed"),
        ("ab12", "finished"),
    ]
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert orjson.loads(ask(server, "/api/runs")[1]) == listed
    append(tmp_path / "wandb" / "fasttrack" / "cd34" / "segment-0001.jsonl", finish(3))
    again = orjson.loads(ask(server, "/api/runs")[1])["runs"]
    assert again[0]["state"] == "failed"
    assert again[0]["version"] != listed["runs"][0]["version"]
    assert again[1] == listed["runs"][1]

    status, body, _ = ask(server, "/api/run?key=ab12")
    assert status == 200
    assert orjson.loads(body[4 : 4 + int.from_bytes(body[:4], "little")])["rows"] == 2


@pytest.mark.parametrize("token", ["", "x", "é", "wrong" * 100])
@pytest.mark.parametrize(
    "path", ["/", "/api/runs", "/api/run?key=ab12", "/api/media?key=ab12", "/elsewhere"]
)
def test_nobody_without_the_token_is_answered(server: RunServer, path: str, token: str) -> None:
    """Whatever is asked for."""
    status, body, _ = ask(server, path, token=token)

    assert status == 403
    assert body.startswith(b"the token is missing or wrong")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:80", 403),
        ("[", 403),
        ("localhost@evil.example", 403),
    ],
)
def test_a_name_that_was_made_to_point_here_is_turned_away(
    server: RunServer, host: str, status: int
) -> None:
    """The port may be that of a tunnel."""
    assert ask(server, "/", host=host)[0] == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_only_get_is_answered(server: RunServer, method: str) -> None:
    """There is nothing to be changed."""
    status, _, headers = ask(server, "/", method)

    assert (status, headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize("key", ["", "nothing", "..", "../../etc", "ab12/../ab12", "%2e%2e"])
def test_only_runs_that_are_listed_are_read(server: RunServer, key: str) -> None:
    """A key is no path."""
    assert ask(server, f"/api/run?key={key}")[0] == 404
    assert ask(server, f"/api/media?key={key}")[0] == 404
    assert ask(server, "/etc/passwd")[0] == 404


def test_a_run_that_cannot_be_read_is_one_line(server: RunServer, tmp_path: Path) -> None:
    """And the others are there as before."""
    broken = tmp_path / "wandb" / "fasttrack" / "ef56" / "segment-0001.jsonl"
    broken.mkdir(parents=True)
    status, body, _ = ask(server, "/api/run?key=ef56")

    assert status == 500
    assert b"ef56 cannot be read" in body
    states = {run["key"]: run["state"] for run in orjson.loads(ask(server, "/api/runs")[1])["runs"]}
    assert states == {"ab12": "finished", "cd34": "crashed", "ef56": "unreadable"}


def test_only_this_machine_can_connect(server: RunServer) -> None:
    """The address is that of the loopback interface, and each start has a token of its own."""
    from fasttrack.views.web.server import RunServer

    assert server.server_address[0] == "127.0.0.1"
    with RunServer(server.runs._base) as other:
        assert other.token != server.token
        assert len(other.token) >= 32
