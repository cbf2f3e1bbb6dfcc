"""Keep secrets out of everything that is written or sent.

Two ways to know one: by name (`api_key=...`, `--password X`, `("token", X)`, a header) and by
value, wherever it stands: the API key that W&B's client finds, the values of environment variables
whose names look secret, well-known forms of tokens, private keys, and passwords in URLs.
"""

from __future__ import annotations

import json
import os
import re
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrack.handler_errors import is_handlers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REDACTED = "[redacted]"

# --- by name --------------------------------------------------------------------------------------

# Names are compared in snake_case: `X-Api-Key`, `wandbApiKey` and `WANDB_API_KEY` are all known.
_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_JOINTS = re.compile(r"[^A-Za-z0-9]+")
_SECRET = re.compile(
    r"secret|passw(or)?d|passphrase|pass_?(code|key)|_pwd(_|$)|credential|authorization"
    r"|(api|private|access|signing|encryption|ssh|account|license|deploy|master|subscription)_?key"
    r"|(^|_)o?auth\d*(_|$)|(^|_)(dsn|jwt|t?otp|bearer)(_|$)|cookie(?!_?cutter)|webhook"
    r"|(^|_)pin(_?(code|number))?$|conn(ection)?_?str(ing)?(_|$)"  # `pin_memory` is DataLoader's
    r"|(?<!bos_)(?<!eos_)(?<!pad_)(?<!unk_)(?<!sep_)(?<!cls_)(?<!mask_)(?<!image_)(?<!action_)"
    r"token(?!iz|s$|s_|_?(len|count|size|ids?|types?|limit|per|drop|budget|num|dim|embed\w*)(_|$))"
)
# One of these stands in every name that `_SECRET` knows: what has none need not be searched.
_HINTS = (
    *("secret", "passw", "passphrase", "pass", "pwd", "credential", "key", "auth", "dsn", "jwt"),
    *("otp", "bearer", "cookie", "webhook", "pin", "conn", "token"),
)
_QUOTED = r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""
# `api_key=...`, `"api_key": ...`, `('api_key', '...')`, `--api-key ...` inside a text: an object's
# repr, a query string, JSON, a list of pairs, a command line. A cookie ends with its line.
_NAME = re.compile(
    r"""(?<![\w.\-])(?P<name>[A-Za-z_\-][\w.\-]*)"""
    r"""(?:["']?\s*[=:]\s*|(?P<pair>["']\s*,\s*(?=[bru]?["']))|(?P<option>[ \t]+(?=[^\s\-])))"""
)
_VALUE = re.compile(
    rf"""(?:(?:bearer|basic|token)\s+)?"""
    rf"""(?:[bru]?{_QUOTED}(?:\s+{_QUOTED})*|\[[^]]*]|\{{[^}}]*}}|\([^)]*\)|[^\s,;&)}}\]]+)""",
    re.IGNORECASE,
)
_COOKIE = re.compile(rf"{_QUOTED}|[^\n\"']+")
_PLAIN = frozenset(("true", "false", "none", "null"))  # a switch, or that nothing was set

# --- by value -------------------------------------------------------------------------------------

_URL_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s]+@")
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----.*?"
    r"(?P<end>-----END [A-Z0-9 ]*KEY[A-Z ]*-----|\Z)",
    re.DOTALL,
)
# What services say that their tokens look like; looked for, and compiled, only where the beginning
# occurs.
_FORMS = tuple(
    (begin, rf"(?<![A-Za-z0-9])(?:{form})")
    for begin, form in (
        ("gh", r"gh[pousr]_[A-Za-z0-9]{30,}"),  # GitHub
        ("github_pat_", r"github_pat_\w{22,}"),
        ("glpat-", r"glpat-[\w\-.]{20,}"),  # GitLab
        ("hf_", r"hf_[A-Za-z0-9]{30,}"),  # Hugging Face
        ("wandb_v", r"wandb_v\d_\w{20,}"),  # W&B
        ("sk-", r"sk-[\w\-]{20,}"),  # OpenAI, Anthropic
        ("AKIA", r"AKIA[0-9A-Z]{16}(?![0-9A-Z])"),  # AWS
        ("ASIA", r"ASIA[0-9A-Z]{16}(?![0-9A-Z])"),
        ("AIza", r"AIza[\w\-]{35}"),  # Google
        ("ya29.", r"ya29\.[\w\-.]{20,}"),
        ("xox", r"xox[abeprs]-[\w\-]{10,}"),  # Slack
        ("xapp-", r"xapp-[\w\-]{10,}"),
        ("hooks.slack.com", r"hooks\.slack\.com/(?:services|workflows|triggers)/[\w/\-]+"),
        ("/api/webhooks/", r"(?:canary\.|ptb\.)?discord(?:app)?\.com/api/webhooks/[\w/\-]+"),
        ("_live_", r"[rsp]k_live_\w{16,}"),  # Stripe
        ("_test_", r"[rsp]k_test_\w{16,}"),
        ("pypi-", r"pypi-[\w\-]{50,}"),
        ("npm_", r"npm_[A-Za-z0-9]{36}"),
        ("dapi", r"dapi[0-9a-f]{32}"),  # Databricks
        ("r8_", r"r8_[A-Za-z0-9]{37}"),  # Replicate
        ("SG.", r"SG\.[\w\-]{16,}\.[\w\-]{16,}"),  # SendGrid
        (":AA", r"\d{8,10}:AA[\w\-]{30,}"),  # Telegram
        ("eyJ", r"eyJ[\w\-]{8,}\.eyJ[\w\-]{8,}(?:\.[\w\-]*)*"),  # a JSON Web Token
        ("eyJhcGlf", r"eyJhcGlf[\w+/\-]{20,}=*"),  # Neptune: JSON that begins with "api_
    )
)
_SHORTEST = 8  # characters; what is shorter may be an ordinary word
_SURE = 12  # characters from which letters alone are taken for a secret, too

_kept: set[str] = set()  # what this process was told
_known: dict[str, bool] = {}  # by name of an environment variable, of which there are few
_MOST_KNOWN = 10_000


def looks_secret(name: str) -> bool:
    """Return whether a value stored under `name` should not be shown.

    `max_tokens`, `tokenizer`, `eos_token`, `pin_memory` and their like are no secrets.
    """
    snake = _JOINTS.sub("_", _WORD_STARTS.sub("_", name)).lower()
    return _SECRET.search(snake) is not None


def keep_secret(value: str) -> None:
    """Know from now on that `value` is a secret, wherever it stands."""
    if len(value) >= _SHORTEST:
        _kept.add(value)


def redact(value: Any) -> Any:
    """Return a copy of `value` with secrets replaced, at every depth.

    Mappings, lists of pairs and lists of command-line options lose the values under names that
    look secret (switches, True and False, stay); texts lose what `redact_text` takes out.
    """
    return _redact(value, _secrets())


def redact_text(text: str) -> str:
    """Return `text` without the secrets that are known by value or stand behind a secret's name."""
    return _redact_text(text, _secrets())


def redact_argv(argv: Sequence[str]) -> list[str]:
    """Return a copy of a command line without the values of options that look secret.

    `--api-key=...`, `--api-key ...`, `-p ...` and `-u user:...` are known; the rest is redacted as
    any text.
    """
    return _redact_argv(argv, _secrets())


def _redact_argv(argv: Sequence[str], secrets: Sequence[str]) -> list[str]:
    clean: list[str] = []
    hide_next = False
    before = ""
    for argument in argv:
        name, equals, _ = argument.partition("=")
        user, colon, _ = argument.partition(":")
        if hide_next and not argument.startswith("-"):
            clean.append(REDACTED)
        elif before in ("-u", "--user") and colon and user:
            clean.append(f"{user}:{REDACTED}")
        elif equals and looks_secret(name):
            clean.append(f"{name}={REDACTED}")
        else:
            clean.append(_redact_text(argument, secrets))
        is_option = argument.startswith("-") and not equals
        hide_next = is_option and (argument == "-p" or looks_secret(argument))
        before = argument
    return clean


def _redact(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, str):
        return _redact_text(value, secrets)
    if isinstance(value, dict):
        hidden = _named_value(value)
        return {
            _redact_text(key, secrets) if isinstance(key, str) else key: REDACTED
            if isinstance(key, str) and (key == hidden or (looks_secret(key) and _tells(item)))
            else _redact(item, secrets)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        texts = all(isinstance(item, str) for item in value)
        if texts and any(item.startswith("-") for item in value):
            return _redact_argv(value, secrets)
        if all(_is_pair(item) for item in value):
            return [
                [name, REDACTED]
                if looks_secret(name) and _tells(item)
                else [_redact_text(name, secrets), _redact(item, secrets)]
                for name, item in value
            ]
        return [_redact(item, secrets) for item in value]
    return value


def _tells(value: Any) -> bool:
    """Return whether a value under a secret's name betrays anything: a switch does not."""
    return bool(value) and not isinstance(value, bool)


def _is_pair(item: Any) -> bool:
    return isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[0], str)


def _named_value(mapping: Mapping[Any, Any]) -> str | None:
    """Return the key of a secret in `{"name": "API_KEY", "value": ...}`; None where none is."""
    for key, value in (("name", "value"), ("key", "value"), ("Name", "Value"), ("Key", "Value")):
        name = mapping.get(key)
        if isinstance(name, str) and looks_secret(name) and _tells(mapping.get(value)):
            return value
    return None


def _redact_text(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    if len(text) < _SHORTEST - 1:
        return text
    if "://" in text:
        text = _URL_CREDENTIALS.sub("", text)
    if "PRIVATE KEY" in text:
        text = _PRIVATE_KEY.sub(REDACTED, text)
    for begin, form in _FORMS:
        if begin in text:
            text = re.sub(form, REDACTED, text)
    return _redact_named(text)


def _redact_named(text: str) -> str:
    lower = text.lower()
    if not any(hint in lower for hint in _HINTS) and "-p " not in text:
        return text
    clean, kept_to = "", 0
    for found in _NAME.finditer(text):
        name = found["name"]
        if found.start() < kept_to or not _hides(found, name):
            continue
        cookie = "cookie" in name.lower() and not found["pair"]
        value = (_COOKIE if cookie else _VALUE).match(text, found.end())
        if value and value[0].strip("\"'").lower() not in _PLAIN:
            if value[0] == REDACTED or (found["option"] and name == "-p" and value[0].isdecimal()):
                continue  # `ssh -p 22`
            clean += text[kept_to : found.end()] + REDACTED
            kept_to = value.end()
    return clean + text[kept_to:]


def _hides(found: re.Match[str], name: str) -> bool:
    if found["option"] is not None:  # only an option is followed by its value after a space
        return name.startswith("-") and (name == "-p" or looks_secret(name))
    return looks_secret(name)


# --- the secrets of this process ------------------------------------------------------------------


def _secrets() -> list[str]:
    """Return the values that are secrets here and now, as they may be spelled; longest first."""
    found = set(_kept)
    for name in os.environ:  # its items() raises where another thread takes one out
        value = os.environ.get(name, "")
        if len(value) < _SHORTEST:
            continue
        known = _known.get(name)
        if known is None:
            if len(_known) >= _MOST_KNOWN:
                _known.clear()
            known = _known[name] = looks_secret(name)
        if known and not value.startswith(("/", ".", "~")) and _is_no_word(value):
            found.add(value)
    found.update(_client_keys())
    spelled = {spelling for value in found for spelling in _spellings(value)}
    return sorted(spelled, key=len, reverse=True)  # one may be the beginning of another


def _is_no_word(value: str) -> bool:
    return len(value) >= _SURE or not (value.isalpha() or value.isdecimal())


def _spellings(value: str) -> Iterator[str]:
    """Yield a secret as it is, and as `repr`, JSON and URLs write it."""
    yield value
    if not value.isalnum():
        yield repr(value)[1:-1]
        yield json.dumps(value)[1:-1]
        yield urllib.parse.quote(value, safe="")


_files: dict[Path, tuple[int, list[str]]] = {}
"""Keys by the file that they stand in, and when it was last changed."""


def _client_keys() -> Iterator[str]:
    """Yield the keys that W&B's client finds in files: the netrc file and its settings."""
    home = os.path.expanduser("~")
    config = os.environ.get("WANDB_CONFIG_DIR") or os.path.join(home, ".config", "wandb")
    named = os.environ.get("NETRC")
    for path in (
        Path(named) if named else Path(home, ".netrc"),
        Path(home, "_netrc"),
        Path(config, "settings"),
    ):
        try:
            changed_ns = path.stat().st_mtime_ns
        except (OSError, ValueError) as error:
            if is_handlers(error):
                raise
            continue
        if path not in _files or _files[path][0] != changed_ns:
            _files[path] = (changed_ns, _keys_in(path))
        yield from _files[path][1]


def _keys_in(path: Path) -> list[str]:
    import netrc  # most have no such file, and `shlex` with it

    try:
        if path.name == "settings":
            keys = re.findall(r"(?m)^\s*api_key\s*[=:]\s*(\S+)", path.read_text("utf-8", "replace"))
        else:
            keys = [entry[2] for entry in netrc.netrc(path).hosts.values() if entry[2]]
    except (OSError, ValueError, netrc.NetrcParseError) as error:
        if is_handlers(error):
            raise
        return []
    return [key for key in keys if len(key) >= _SHORTEST]


# --- streams --------------------------------------------------------------------------------------

_MOST_HELD = 16_384  # characters that wait for the rest of their line, or of a private key
_LONGEST_SECRET = 1024  # characters; a longer line is cut between two words


class StreamRedactor:
    """Redact what is printed, piece by piece, though a secret may come in several.

    Threads: one at a time.
    """

    def __init__(self) -> None:
        """Begin with an empty line."""
        self._held = ""
        self._in_key = False

    def feed(self, text: str) -> str:
        """Take in what was printed; return what can be shown now: whole lines, as a rule."""
        text = self._held + text
        begins = text.rfind("-----BEGIN ")
        key = None if begins < 0 else _PRIVATE_KEY.match(text, begins)
        self._in_key = key is not None and not key["end"]
        cut = max(text.rfind("\n"), text.rfind("\r")) + 1
        if key is not None:
            cut = begins if self._in_key else max(cut, key.end())
        if len(text) - cut > _MOST_HELD:
            cut, self._in_key = text.rfind(" ", -_LONGEST_SECRET) + 1 or len(text), False
        self._held = text[cut:]
        return redact_text(text[:cut]) if cut else ""

    @property
    def holds(self) -> bool:
        """Whether something is held back."""
        return bool(self._held)

    def rest(self, *, at_the_end: bool = False) -> str:
        """Return an unfinished line that nothing came behind for a while.

        Args:
            at_the_end: nothing will come any more: return even the beginning of a private key.
        """
        if self._in_key and not at_the_end:
            return ""
        held, self._held = self._held, ""
        return redact_text(held) if held else ""
