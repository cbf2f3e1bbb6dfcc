"""End to end against openwandb, a W&B-compatible server that somebody else wrote.

It runs as a process of its own (its licence allows no more), and its database is read back.
"""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.late import need
from support.runs import make_tracker, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

need("openwandb", "openwandb is installed with the extra 'test'")
pytestmark = pytest.mark.server


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The SQLite file of a running openwandb that this process is logged in to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    data = tmp_path / "server"
    command = [str(Path(sys.executable).with_name("openwandb")), "serve", "--host", "127.0.0.1"]
    with subprocess.Popen(
        [*command, "--port", str(port), "--data-dir", str(data)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_until(lambda: _listens(port))
            monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
            monkeypatch.setenv("WANDB_API_KEY", "local" + 40 * "0")
            yield data / "openwandb.db"
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def test_a_run_arrives_whole_on_a_foreign_server(database: Path) -> None:
    """Every row stands in openwandb's database, once, with its value and step."""
    with make_tracker(mode="online") as tracker:
        for step in range(100):
            tracker.log_metrics({"loss/total": step / 4}, step=step)
        wait_until(lambda: tracker.get_run_url() is not None)

    assert not tracker.is_offline()
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(
            "select step, value from metrics where run_id = ? and key = 'loss/total' order by id",
            (tracker.get_run_id(),),
        ).fetchall()
    assert rows == [(step, step / 4) for step in range(100)]
