"""What the doctor makes of what it found."""

from __future__ import annotations

import threading

import pytest
from support.doctors import by_name, states

from fasttrack.doctor import PROBES, Check, Level, Limits, examine, judge, without_secrets


def verdict(**problems: Level) -> Check:
    """Return the verdict on a machine where some checks ended in other states than "ok"."""
    names = ("rank", "mode", "wandb", "account", "server", "torch", "directory")
    return judge([Check(n, problems.get(n, "ok"), "") for n in names])


@pytest.mark.parametrize(
    ("problems", "state", "text"),
    [
        ({}, "ok", "would record online"),
        ({"account": "problem"}, "problem", "would fall back to offline: see account"),
        ({"server": "problem"}, "problem", "would fall back to offline: see server"),
        ({"rank": "note"}, "note", "would stay silent here; rank 0 records"),
        ({"directory": "problem"}, "problem", "would not start: see directory"),
        ({"mode": "problem"}, "problem", "would not start: see mode"),
        (
            {"wandb": "problem"},
            "problem",
            "would record on disk; whether W&B gets it is in doubt: see wandb",
        ),
    ],
)
def test_verdict_says_what_a_tracker_would_do(
    problems: dict[str, Level], state: Level, text: str
) -> None:
    """The worst finding decides."""
    assert verdict(**problems) == Check("tracker", state, text)


def test_verdict_on_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline and disabled are no problems where they were asked for."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    offline = verdict()
    monkeypatch.setenv("WANDB_MODE", "disabled")

    assert offline == Check("tracker", "ok", "would record offline, as asked")
    assert verdict() == Check("tracker", "ok", "would record nothing, as asked")


@pytest.mark.parametrize(
    ("backends", "text"),
    [
        ("none", "would record for the journal only, as asked"),
        ("tensorboard", "would record and deliver to tensorboard"),
        ("wandb,tensorboard", "would record online"),
    ],
)
def test_verdict_on_where_runs_go(
    monkeypatch: pytest.MonkeyPatch, backends: str, text: str
) -> None:
    """Where W&B has no part in it, neither mode nor account matter."""
    monkeypatch.setenv("FASTTRACK_BACKENDS", backends)

    assert verdict() == Check("tracker", "ok", text)


def test_check_that_hangs_or_fails_spoils_nothing() -> None:
    """What a tracker cannot do without is a problem when it is not known, the rest a note."""
    gate = threading.Event()

    def hang(limits: Limits) -> list[Check]:
        gate.wait()
        return []

    def fail(limits: Limits) -> list[Check]:
        raise RuntimeError("oh")

    probes = {"directory": hang, "gpu": fail, "python": PROBES["python"]}
    found = by_name(examine(Limits(total_s=0.2), probes))
    gate.set()

    assert states(found) == {
        "directory": "problem",
        "gpu": "note",
        "python": "ok",
        "tracker": "problem",
    }
    assert found["directory"].text == "no answer within 0.2 s"
    assert found["gpu"].text == "this check itself failed: RuntimeError('oh')"


def test_limits_keep_their_proportions() -> None:
    """Twice the time in all is twice the time for each."""
    assert Limits.within(10.0) == Limits()
    assert Limits.within(20.0) == Limits(
        total_s=20.0, client_s=18.0, torch_s=18.0, network_s=6.0, tool_s=4.0
    )


def test_no_secret_of_the_environment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it turns up: in what a program said, or in the fix."""
    monkeypatch.setenv("MY_TOKEN", "planted-secret")
    check = Check("server", "problem", "it said planted-secret", "curl planted-secret")

    assert without_secrets(check) == Check(
        "server", "problem", "it said [redacted]", "curl [redacted]"
    )
