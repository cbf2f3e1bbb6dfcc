"""What is said when W&B's client does not open a run, and what of a run it can never refuse."""

from __future__ import annotations

import os
import socket
import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from fasttrack.delivery.backends.wandb import client
from fasttrack.delivery.backends.wandb.client import import_wandb, probe, unavailable
from fasttrack.delivery.backends.wandb.inert import describe, inert_config
from fasttrack.errors import BackendUnavailableError
from fasttrack.journal.entries import Header

if TYPE_CHECKING:
    from collections.abc import Callable

ERRORS = import_wandb().errors


@pytest.mark.parametrize(
    ("error", "words", "final", "network"),
    [
        (ERRORS.AuthenticationError("API key must have 40+ characters"), "API key", True, False),
        (ERRORS.UsageError("No API key configured."), "no W&B account", True, False),
        (ERRORS.UsageError("Invalid project name"), "client refuses: Invalid", True, False),
        (ERRORS.CommError("Timed out initializing run"), "does not answer", False, True),
        (ERRORS.CommError("permission denied"), "W&B refuses the run: perm", False, False),
        (ERRORS.Error("Error initializing run"), "did not open the run", False, False),
        (ValueError("base_url: not a URL"), "refuses its settings", True, False),
        (ConnectionResetError("gone"), "client failed: ConnectionResetError", False, False),
    ],
)
def test_each_reason_has_its_own_words(
    error: Exception, words: str, final: bool, network: bool
) -> None:
    """A malformed key was "Network unavailable"."""
    said = unavailable(error)

    assert words in str(said)
    assert (said.final, said.network) == (final, network)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "its name is not found"),
        (ConnectionRefusedError(111, "Connection refused"), "the connection is refused"),
        (ConnectionResetError(104, "reset"), "the connection is reset"),
        (TimeoutError("timed out"), "it takes too long"),
        (ssl.SSLCertVerificationError("self-signed"), "certificate is not trusted"),
        (ssl.SSLError("wrong version number"), "TLS fails"),
    ],
)
def test_a_server_that_is_not_reached_is_told_by_how(
    reason: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS, TLS and a refusal are mended in different places."""

    def urlopen(*_: object, **__: object) -> None:
        raise urllib.error.URLError(reason)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(BackendUnavailableError, match=words) as caught:
        probe("http://127.0.0.1:9", 1.0)

    assert caught.value.network
    assert not caught.value.final


def test_names_and_tags_that_are_too_long_are_cut_and_said() -> None:
    """The client refuses a run for a tag of 65 letters."""
    said: list[str] = []
    header = Header(run_id="ab", name="n" * 200, group="g" * 128, tags=("t" * 65, "", "x"))

    told = describe(header, said.append)

    assert told["name"] == "n" * 128
    assert told["group"] == "g" * 128
    assert told["tags"] == ["t" * 64, "x"]
    assert len(said) == 2


def test_a_resumed_run_that_says_nothing_keeps_what_it_has() -> None:
    """None is not an empty list."""
    assert describe(Header(run_id="ab"), lambda what: None) == {
        "name": None,
        "group": None,
        "notes": None,
        "tags": None,
    }


def test_what_the_client_would_take_for_its_own_is_spelled_otherwise() -> None:
    """At the top, where it made the whole configuration a file's name, and below."""
    reference = "wandb-artifact://abc"
    told = inert_config(
        {
            "_type": "artifactVersion",
            "_wandb": 5,
            "a": {"_type": "artifactVersion", "id": 1},
            "b": [{"c": reference}],
            "d": {"_type": "table-file"},
        }
    )

    assert told == {
        "_type": "artifactVersion",
        "_wandb_": 5,
        "a": {"_type": " artifactVersion", "id": 1},
        "b": [{"c": f" {reference}"}],
        "d": {"_type": "table-file"},
    }


def test_a_key_with_a_files_newline_is_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client refuses it, even offline."""
    monkeypatch.setenv("WANDB_API_KEY", f"{'a' * 40}\n")
    ask: Callable[[], object] = client.import_wandb
    ask()

    import os

    assert os.environ["WANDB_API_KEY"] == "a" * 40


def test_what_the_user_lets_the_clients_helper_have_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it takes one core and some memory of a machine that trains."""
    for name in ("GOGC", "GOMEMLIMIT", "GOMAXPROCS"):
        monkeypatch.setenv(name, "")  # put back at the end
        monkeypatch.delenv(name)
    monkeypatch.setenv("GOMAXPROCS", "8")
    client.spare_the_cores()

    told = {name: os.environ[name] for name in ("GOGC", "GOMEMLIMIT", "GOMAXPROCS")}
    assert told == {"GOGC": "400", "GOMEMLIMIT": "256MiB", "GOMAXPROCS": "8"}
    monkeypatch.delenv("GOMAXPROCS")
    client.spare_the_cores()
    assert os.environ["GOMAXPROCS"] == "1"
