"""Which alerts a run has and where they go: `Options(alerts=...)`, the environment, fasttrack.toml.

Each key counts from the first of these that has it. Webhook and command may hold secrets: they are
in no repr, message, header or file of ours.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fasttrack.errors import ConfigurationError
from fasttrack.validation import require_choice, require_number

if TYPE_CHECKING:
    from fasttrack.alerts.rules import Rule

STDERR: Final = "stderr"
WANDB: Final = "wandb"
WEBHOOK: Final = "webhook"
COMMAND: Final = "command"
SINKS = (STDERR, WANDB, WEBHOOK, COMMAND)
FILE = "fasttrack.toml"
"""Looked for in the working directory; of it the table [alerts]."""
ITEMS_VARIABLE = "FASTTRACK_ALERTS"
TO_VARIABLE = "FASTTRACK_ALERTS_TO"
WEBHOOK_VARIABLE = "FASTTRACK_ALERTS_WEBHOOK"
COMMAND_VARIABLE = "FASTTRACK_ALERTS_COMMAND"

HUNG_S = 25.0
"""Seconds without a sign of life of the training process, by default."""
STALL_S = 120.0
"""Seconds without a row, at the least, where "stall" is asked for without a number."""

_SWITCHES = ("non_finite", "spike", "crash", "straggler", "missing")
_TIMES = {"hung": HUNG_S, "stall": STALL_S}
_KEYS = (*_SWITCHES, *_TIMES, "rules", "to", "webhook", "command")
_WORDS = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
_OFF: dict[str, Any] = {**dict.fromkeys(_SWITCHES, False), **dict.fromkeys(_TIMES), "rules": ()}


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSettings:
    """What is watched for, and who is told."""

    non_finite: bool = True
    """A loss that is NaN or infinite."""
    spike: bool = True
    """A loss that jumps far above all that it was lately, and stays there."""
    crash: bool = True
    """A run that ends as failed, or whose process died."""
    straggler: bool = True
    """A rank that holds the others up, in a run that tells of all its ranks."""
    missing: bool = True
    """Ranks of which nothing is heard, in such a run."""
    hung: float | None = HUNG_S
    """Seconds after which a training process that is stopped, or runs no Python code, is told of;
    None: never."""
    stall: float | None = None
    """Seconds without a row, and thrice the longest that there was between two, after which that is
    told; None: never."""
    rules: tuple[Rule, ...] = ()
    to: tuple[str, ...] = (STDERR,)
    """Of `SINKS`."""
    webhook: str | None = field(default=None, repr=False)
    command: tuple[str, ...] = field(default=(), repr=False)
    given: bool = False
    """Whether anybody has set anything: then a run that keeps its journal only is watched, too."""

    @property
    def any(self) -> bool:
        """Whether anything is watched for."""
        return bool(
            self.non_finite
            or self.spike
            or self.crash
            or self.straggler
            or self.missing
            or self.rules
            or self.hung is not None
            or self.stall is not None
        )

    def are_told(self, backends: Sequence[str]) -> bool:
        """Return whether a process tells people of alerts, where a run has these backends."""
        return self.any and bool(backends or self.given)

    def as_entry(self) -> dict[str, Any]:
        """Return what the journal's header holds of it: no webhook, no command."""
        if not self.any:
            return {}
        told = {name: getattr(self, name) for name in (*_SWITCHES, *_TIMES)}
        return {**told, "rules": [rule.text for rule in self.rules], "to": list(self.to)}

    @classmethod
    def of_entry(cls, told: Mapping[str, Any]) -> AlertSettings | None:
        """Return the settings in a header; None where nothing is watched for, or it is damaged."""
        if not told:
            return None
        known = {name: value for name, value in told.items() if name in _KEYS}
        try:
            checked = _check(known, "the run's header")
            settings = cls(**{**_OFF, **checked})
        except ConfigurationError:
            return None
        return settings if settings.any else None

    def private(self) -> dict[str, str]:
        """Return the environment variables by which a process of ours learns the secrets."""
        found = {}
        if self.webhook is not None:
            found[WEBHOOK_VARIABLE] = self.webhook
        if self.command:
            import shlex  # hardly ever needed

            found[COMMAND_VARIABLE] = shlex.join(self.command)
        return found


def resolve_alerts(given: Any, backends: Sequence[str], flush_interval_s: float) -> AlertSettings:
    """Return a run's alerts: `given` (of Options) > environment > fasttrack.toml > defaults.

    Args:
        given: in one of the forms that `check_alerts` takes.
        backends: the run's.
        flush_interval_s: how often its worker does anything.

    Raises:
        ConfigurationError: something of it is wrong.
    """
    found = {
        **_from_file(Path(FILE)),
        **_from_environment(),
        **check_alerts("Options.alerts", given),
    }
    if "to" not in found:
        named = [name for name in (WEBHOOK, COMMAND) if found.get(name)]
        found["to"] = (STDERR, *named)
    for name, variable, how in (
        (WEBHOOK, WEBHOOK_VARIABLE, "the address"),
        (COMMAND, COMMAND_VARIABLE, "the command line"),
    ):
        if name in found["to"] and not found.get(name):
            raise ConfigurationError(
                f"alerts go to {name!r}, and none is given: set {variable} to {how}, or pass "
                f"Options(alerts={{{name!r}: ...}})"
            )
    if WANDB in found["to"] and WANDB not in backends:
        raise ConfigurationError(
            f"alerts go to {WANDB!r}, and the run does not (backends: "
            f"{', '.join(backends) or 'none'}); take it out of 'to', or add the backend"
        )
    given_any = bool(set(found) - {"to"}) or found["to"] != (STDERR,)
    if (hung_s := found.get("hung", HUNG_S)) is not None:
        found["hung"] = max(hung_s, 3 * flush_interval_s)
    settings = AlertSettings(**found, given=given_any)
    _keep_secret(settings)
    return settings


def resolve_means() -> tuple[str | None, tuple[str, ...]]:
    """Return the webhook and the command of this process: environment > fasttrack.toml.

    For who sends, later and maybe elsewhere: what is wrong counts as not given.
    """
    found: dict[str, Any] = {}
    with contextlib.suppress(ConfigurationError):
        found |= _from_file(Path(FILE))
    with contextlib.suppress(ConfigurationError):
        found |= _from_environment()
    settings = AlertSettings(webhook=found.get("webhook"), command=found.get("command", ()))
    _keep_secret(settings)
    return settings.webhook, settings.command


def check_alerts(source: str, value: Any) -> dict[str, Any]:
    """Return what a value in one of the three forms sets, checked.

    Args:
        source: what it is called, for messages.
        value: a mapping with the keys of `AlertSettings`; a text of items between semicolons, or a
            sequence of items ("stall=60", "spike=off", "eval/loss > 5"); False: no alerts; None:
            sets nothing.

    Raises:
        ConfigurationError: it is wrong; the message shows no secret.
    """
    if value is None or value is True:
        return {}
    if value is False:
        return dict(_OFF)
    if isinstance(value, Mapping):
        return _check(value, source)
    if isinstance(value, str):
        return _from_items(value.split(";"), source)
    if isinstance(value, Sequence):
        return _from_items(value, source)
    raise ConfigurationError(
        f"{source} must be a mapping, a sequence of texts, True or False, not a "
        f"{type(value).__name__}"
    )


def _from_items(items: Sequence[Any], source: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    rules = []
    for item in items:
        if not isinstance(item, str):
            raise ConfigurationError(f"{source} must hold texts, not a {type(item).__name__}")
        text = item.strip()
        name, equals, value = (part.strip() for part in text.partition("="))
        if not text:
            continue
        if text.lower() in ("off", "false", "0", "none"):
            found |= _OFF
        elif text in (*_SWITCHES, *_TIMES):
            found[text] = True
        elif equals and name in (*_SWITCHES, *_TIMES):
            found[name] = _WORDS.get(value.lower(), value)
            if name in _TIMES and isinstance(found[name], str):
                found[name] = _as_number(value, f"{source}: {name}")
        elif set(text) & set("<>=!"):
            rules.append(text)
        else:
            raise ConfigurationError(
                f"{source}: unknown alert {text!r}; known are {', '.join((*_SWITCHES, *_TIMES))}, "
                "off, and rules such as 'eval/loss > 5'"
            )
    if rules:
        found["rules"] = rules
    return _check(found, source)


def _as_number(text: str, source: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(f"{source} must be seconds, on or off, not {text!r}") from None


def _check(value: Mapping[Any, Any], source: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, given in value.items():
        if name not in _KEYS:
            raise ConfigurationError(
                f"{source}: unknown key {name!r}; known are {', '.join(_KEYS)}"
            )
        where = f"{source}: {name}"
        if name in _SWITCHES:
            require_choice(where, given, (True, False))
            found[name] = bool(given)
        elif name in _TIMES:
            found[name] = _seconds(where, given, _TIMES[name])
        elif name == "rules":
            from fasttrack.alerts.rules import parse_rule  # few runs have any

            found[name] = tuple(parse_rule(text, where) for text in _texts(where, given))
        elif name == "to":
            found[name] = tuple(dict.fromkeys(_texts(where, given)))
            if unknown := set(found[name]) - set(SINKS):
                told = sorted(unknown)[0] if "://" not in "".join(unknown) else "an address"
                raise ConfigurationError(
                    f"{where} must name some of {', '.join(SINKS)}, not {told!r}; "
                    "a webhook's address goes under 'webhook'"
                )
        elif name == "webhook":
            found[name] = None if given is None else check_webhook(where, given)
        else:
            found[name] = _command(where, given)
    return found


def _seconds(where: str, given: Any, default: float) -> float | None:
    if given is None or given is False:
        return None
    if given is True:
        return default
    require_number(where, given, least=0.1)
    return float(given)


def _texts(where: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, str):
        given = (given,)
    if not isinstance(given, Sequence) or not all(isinstance(text, str) for text in given):
        raise ConfigurationError(f"{where} must be a text or a list of texts")
    return tuple(given)


def check_webhook(where: str, given: Any) -> str:
    """Return the address of a webhook.

    Raises:
        ConfigurationError: it is none. The message does not show it: it is a secret.
    """
    import re

    form = r"https?://[^\s/?#@]+(?::\d+)?(?:[/?#]\S*)?"
    if not isinstance(given, str) or not given.isascii() or not re.fullmatch(form, given):
        raise ConfigurationError(
            f"{where} must be an address that begins with https:// or http:// and names a host, "
            "without blanks or a user's name; what is given is not shown, it may be a secret"
        )
    return given


def _command(where: str, given: Any) -> tuple[str, ...]:
    import shlex  # hardly ever needed

    try:
        words = tuple(shlex.split(given)) if isinstance(given, str) else _texts(where, given)
    except ValueError as error:
        raise ConfigurationError(f"{where} is no command line: {error}") from None
    if given is None or not words or not words[0]:
        raise ConfigurationError(f"{where} must be a command line, or a list of its words")
    return words


def _from_environment() -> dict[str, Any]:
    found: dict[str, Any] = {}
    if items := os.environ.get(ITEMS_VARIABLE):
        found |= check_alerts(ITEMS_VARIABLE, items)
    given: dict[str, Any] = {}
    if to := os.environ.get(TO_VARIABLE):
        given["to"] = [name.strip() for name in to.split(",") if name.strip()]
    for key, variable in (("webhook", WEBHOOK_VARIABLE), ("command", COMMAND_VARIABLE)):
        if value := os.environ.get(variable):
            given[key] = value
    return found | _check(given, f"environment ({ITEMS_VARIABLE}_*)")


def _from_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    if sys.version_info >= (3, 11):  # most runs have no such file, and need neither
        import tomllib
    else:
        import tomli as tomllib
    try:
        found = tomllib.loads(text.decode())
    except ValueError as error:  # not UTF-8, or no TOML
        raise ConfigurationError(f"{path.absolute()} is no TOML: {error}") from None
    if unknown := sorted(set(found) - {"alerts"}):
        raise ConfigurationError(f"{path.absolute()}: unknown {unknown[0]!r}; known is [alerts]")
    table = found.get("alerts", {})
    if not isinstance(table, dict):
        raise ConfigurationError(f"{path.absolute()}: alerts must be a table, [alerts]")
    return _check(table, f"{path.absolute()}: [alerts]")


def _keep_secret(settings: AlertSettings) -> None:
    if settings.webhook is not None:
        from fasttrack.redaction import keep_secret  # only where there is something to hide

        keep_secret(settings.webhook)
