"""Where alerts are set, what counts, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from fasttrack import ConfigurationError, ExperimentTracker, Options
from fasttrack.alerts.settings import AlertSettings, resolve_alerts, resolve_means
from fasttrack.redaction import redact_text

URL = "https://hooks.example.org/services/very-secret-path"


def resolve(given: Any = None, *backends: str, flush_interval_s: float = 0.2) -> AlertSettings:
    """Return the settings of a run for W&B."""
    return resolve_alerts(given, backends or ("wandb",), flush_interval_s)


def write_file(text: str) -> None:
    """Make the working directory's fasttrack.toml."""
    Path("fasttrack.toml").write_text(text)


def test_defaults_are_safe() -> None:
    """Stderr only; no run stalls that nobody said would."""
    settings = resolve()

    assert (settings.non_finite, settings.spike, settings.crash) == (True, True, True)
    assert (settings.hung, settings.stall, settings.rules) == (25.0, None, ())
    assert (settings.to, settings.given) == (("stderr",), False)


def test_each_key_counts_from_the_first_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options, then the environment, then the file."""
    write_file('[alerts]\nspike = false\nstall = 30\nhung = 5\nrules = ["a > 1", "b < 2"]')
    monkeypatch.setenv("FASTTRACK_ALERTS", "stall=60; c != 3")
    settings = resolve(["stall=90", "hung=off"])

    assert (settings.spike, settings.stall, settings.hung) == (False, 90.0, None)
    assert [rule.text for rule in settings.rules] == ["c != 3"]
    assert settings.given


@pytest.mark.parametrize("value", [False, "off", ["off"], {"to": ["stderr"], "hung": False}])
def test_alerts_can_be_turned_off(value: Any) -> None:
    """All at once, or one by one."""
    settings = resolve(value)

    assert not settings.hung
    assert settings.any == isinstance(value, dict)
    assert bool(settings.as_entry()) == settings.any


def test_a_webhook_is_told_where_one_is_given_and_is_a_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In no repr, no header and no text; a process of ours gets it by its environment."""
    write_file(f'[alerts]\nwebhook = "{URL}"\ncommand = ["notify", "-t", "two words"]')
    settings = resolve()

    assert settings.to == ("stderr", "webhook", "command")
    assert URL not in repr(settings) + repr(settings.as_entry()) + repr(Options(alerts=[]))
    assert "very-secret" not in repr(Options(alerts={"webhook": URL}))
    assert URL not in redact_text(f"POST {URL} failed")
    Path("fasttrack.toml").unlink()
    for name, value in settings.private().items():
        monkeypatch.setenv(name, value)
    assert resolve_means() == (URL, ("notify", "-t", "two words"))


def test_what_the_header_holds_is_read_again() -> None:
    """All but the secrets."""
    settings = resolve({"rules": ["a > 1 for 3"], "stall": True, "to": ["stderr", "wandb"]})

    read = AlertSettings.of_entry(settings.as_entry())
    assert read == dataclasses.replace(settings, given=False)
    assert AlertSettings.of_entry({}) is None
    assert AlertSettings.of_entry({"spike": 7, "rules": "?"}) is None


def test_who_flushes_seldom_is_not_called_hung() -> None:
    """The worker shows no sign of life in between."""
    assert resolve(flush_interval_s=60.0).hung == 180.0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"spikes": True}, r"unknown key 'spikes'; known are non_finite, spike"),
        (["spikes"], r"unknown alert 'spikes'; known are non_finite"),
        (["stall=soon"], r"stall must be seconds, on or off, not 'soon'"),
        ({"stall": -1}, r"stall must be a number from 0.1"),
        ({"spike": "yes"}, r"spike must be one of True, False"),
        ({"rules": ["loss"]}, r"'loss' is no rule; write METRIC < NUMBER"),
        ({"rules": 5}, r"rules must be a text or a list of texts"),
        ({"to": ["slack"]}, r"to must name some of stderr, wandb, webhook, command, not 'slack'"),
        ({"to": [URL]}, r"not 'an address'; a webhook's address goes under 'webhook'"),
        ({"to": ["webhook"]}, r"none is given: set FASTTRACK_ALERTS_WEBHOOK to the address"),
        ({"to": ["command"]}, r"none is given: set FASTTRACK_ALERTS_COMMAND"),
        ({"webhook": "hooks.example.org/very-secret"}, r"begins with https:// or http://"),
        ({"webhook": "https://user:very-secret@host/"}, r"is not shown, it may be a secret"),
        ({"command": "notify 'x"}, r"command is no command line: No closing quotation"),
        ({"command": []}, r"command must be a command line"),
        (7, r"must be a mapping, a sequence of texts, True or False, not a int"),
        ([7], r"must hold texts, not a int"),
    ],
)
def test_what_is_wrong_stops_the_constructor(value: Any, message: str) -> None:
    """It names the place, and shows no secret."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        ExperimentTracker("x", mode="offline", options=Options(alerts=value))

    assert "Options.alerts" in str(caught.value) or "alerts go to" in str(caught.value)
    assert "very-secret" not in str(caught.value)
    assert not Path("wandb").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[alerts\n", r"fasttrack.toml is no TOML: "),
        ("[alert]\n", r"unknown 'alert'; known is \[alerts\]"),
        ("alerts = 3\n", r"alerts must be a table"),
        ("[alerts]\nstal = 3\n", r"\[alerts\]: unknown key 'stal'"),
    ],
)
def test_a_wrong_file_stops_the_constructor(text: str, message: str) -> None:
    """It names the file."""
    write_file(text)

    with pytest.raises(ConfigurationError, match=message):
        ExperimentTracker("x", mode="offline")


def test_alerts_at_wandb_need_a_run_at_wandb() -> None:
    """Or they would wait for ever."""
    with pytest.raises(ConfigurationError, match=r"alerts go to 'wandb', and the run does not"):
        resolve({"to": ["wandb"]}, "tensorboard")


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them."""
    for name, value in (
        ("FASTTRACK_ALERTS", "spikes"),
        ("FASTTRACK_ALERTS_TO", "slack"),
        ("FASTTRACK_ALERTS_WEBHOOK", "very-secret"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(ConfigurationError, match="FASTTRACK_ALERTS") as caught:
                resolve()
        assert "very-secret" not in str(caught.value)
