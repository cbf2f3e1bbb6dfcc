"""W&B as the doctor finds it: real servers, accounts and clients, well and unwell."""

from __future__ import annotations

import dataclasses
import json
import socket
import sys
from typing import TYPE_CHECKING

import pytest
from support.doctors import PATIENT, by_name, hide_module, only, states
from support.wandb_server import Fault, WandbServer

from fasttrack.doctor import Check, Limits
from fasttrack.doctor.checks import check_environment
from fasttrack.doctor.client import check_client, judge_client, read_facts

if TYPE_CHECKING:
    from pathlib import Path

KEY = "planted" + "0" * 40
IMPATIENT = dataclasses.replace(PATIENT, network_s=1.0)


def test_reachable_server_that_accepts_the_key_is_well(server: WandbServer) -> None:
    """The client, the account and the server, each with what was found."""
    found = by_name(check_client(PATIENT))

    assert states(found) == {"wandb": "ok", "account": "ok", "server": "ok"}
    assert "wandb-core 0." in found["wandb"].text
    assert found["account"].text == "credentials from WANDB_API_KEY are accepted: tester"
    assert found["server"].text.startswith(f"{server.url} answers within ")


def test_key_that_the_server_refuses_is_a_problem_of_the_account(server: WandbServer) -> None:
    """The server is fine; the fix takes the bad key out of the environment first."""
    server.fault = Fault("status", target="graphql", status=401)

    found = by_name(check_client(PATIENT))

    assert states(found) == {"wandb": "ok", "account": "problem", "server": "ok"}
    assert found["account"].fix == "unset WANDB_API_KEY && wandb login --relogin"


def test_key_in_the_netrc_file_is_found(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where `wandb login` writes it."""
    monkeypatch.delenv("WANDB_API_KEY")
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text(f"machine 127.0.0.1:{server.port}\n  login user\n  password {KEY}\n")
    netrc.chmod(0o600)

    found = by_name(check_client(PATIENT))

    assert found["account"].text == "credentials from the netrc file are accepted: tester"


def test_no_key_is_a_problem_that_logging_in_fixes(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the run would fall back to offline."""
    monkeypatch.delenv("WANDB_API_KEY")

    found = by_name(check_client(PATIENT))

    assert states(found) == {"wandb": "ok", "account": "problem", "server": "ok"}
    assert found["account"].fix == "wandb login"


def test_closed_port_is_named_and_the_account_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens on the discard port; whether the key is good cannot be known."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)

    found = by_name(check_client(PATIENT))

    assert states(found) == {"wandb": "ok", "account": "note", "server": "problem"}
    assert found["server"].text == "http://127.0.0.1:9: the connection is refused"
    assert "WANDB_MODE=offline" in str(found["server"].fix)


def test_unknown_host_name_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """`.invalid` is reserved: no resolver knows it."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.invalid")

    found = by_name(check_client(PATIENT))

    assert found["server"].text == "http://wandb.invalid: its name is not known here (DNS)"


def test_tls_trouble_is_named(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here: https asked of a server that speaks http."""
    monkeypatch.setenv("WANDB_BASE_URL", server.url.replace("http:", "https:"))

    found = by_name(check_client(PATIENT))

    assert found["server"].text.endswith(": TLS fails")


def test_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection, and then nothing comes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")

        found = by_name(check_client(IMPATIENT))

    assert found["server"].state == "problem"
    assert found["server"].text.endswith(": no answer within 1 s")


def test_account_that_never_answers_is_given_up(server: WandbServer) -> None:
    """A key is not to blame for a server that hangs; a tracker would fall back all the same."""
    server.fault = Fault("hang", target="graphql")

    found = by_name(check_client(IMPATIENT))

    assert states(found) == {"wandb": "ok", "account": "problem", "server": "ok"}
    assert "login" not in str(found["account"].fix)


def test_proxy_is_used_and_named_without_its_password(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test server takes a proxy's requests too; the name is known to nobody else."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.invalid")
    monkeypatch.setenv("HTTP_PROXY", server.url.replace("://", f"://me:{KEY}@"))
    for name in ("http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    found = by_name(check_client(PATIENT))

    expected = f"http://wandb.invalid through the proxy {server.url} answers within "
    assert found["server"].text.startswith(expected)
    assert f"HTTP_PROXY={server.url}" in only(check_environment()).text


def test_offline_asks_no_server(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence was asked for; only the client itself is looked at."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    server.fault = Fault("close")

    found = by_name(check_client(PATIENT))

    assert states(found) == {"wandb": "ok"}
    assert server.faults_struck == 0


def test_missing_wandb_is_a_problem_that_pip_fixes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a folder `wandb` lies around, as it does wherever runs were recorded."""
    hide_module("wandb", tmp_path / "hidden", monkeypatch)
    (tmp_path / "wandb").mkdir()

    found = only(check_client(PATIENT))

    assert (found.check, found.state, found.fix) == ("wandb", "problem", "pip install wandb")


def test_url_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """wandb's own words, in one line, and the variable to fix."""
    monkeypatch.setenv("WANDB_BASE_URL", "wandb.example")

    found = only(check_client(PATIENT))

    assert (found.state, found.fix) == ("problem", "unset WANDB_BASE_URL")
    assert "valid URL" in found.text


def test_what_the_client_found_before_it_hung_is_kept() -> None:
    """Looking up a name knows no time limit, so the whole client has one."""
    facts = {"version": "1.2", "core": "/bin/true", "base_url": "http://x", "key_source": "y"}
    hang = f"print({json.dumps(json.dumps(facts))}, flush=True); import time; time.sleep(600)"

    read = read_facts([sys.executable, "-c", hang], timeout_s=2.0)
    found = by_name(judge_client(read, "online", PATIENT))

    assert states(found) == {"wandb": "ok", "account": "note", "server": "problem"}
    assert found["server"].text == "http://x: wandb's client took longer than 2 s"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ([sys.executable, "-c", "raise SystemExit(5)"], "wandb's client crashed (exit code 5)"),
        (["/no/such/python"], "/no/such/python cannot be started: "),
    ],
)
def test_client_that_crashes_is_a_problem(command: list[str], said: str) -> None:
    """A broken installation, most likely."""
    found = only(judge_client(read_facts(command, timeout_s=60.0), "online", PATIENT))

    assert (found.check, found.state) == ("wandb", "problem")
    assert found.text.startswith(said)
    assert found.fix == "pip install --force-reinstall wandb"


def test_client_that_starts_too_slowly_is_not_said_to_be_broken() -> None:
    """On a slow disk the second start is faster; nothing needs installing."""
    found = only(check_client(Limits(client_s=0.01)))

    assert found.text == "wandb's client took longer than 0.01 s"
    assert "doctor (once more" in str(found.fix)


@pytest.mark.parametrize("backends", ["tensorboard", "none"])
def test_run_that_does_not_go_there_asks_nothing(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch, backends: str
) -> None:
    """wandb need not even be installed."""
    monkeypatch.setenv("FASTTRACK_BACKENDS", backends)
    server.fault = Fault("close")

    assert only(check_client(PATIENT)) == Check("wandb", "ok", "not asked: runs do not go there")
    assert server.faults_struck == 0
