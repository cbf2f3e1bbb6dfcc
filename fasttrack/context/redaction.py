"""Keep secrets out of everything that is written or sent."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

REDACTED = "[redacted]"

# Names are compared in snake_case: `X-Api-Key`, `wandbApiKey` and `WANDB_API_KEY` are all known.
_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_JOINTS = re.compile(r"[^A-Za-z0-9]+")
_SECRET = re.compile(
    r"secret|passw(or)?d|passphrase|api_?key|credential|private_?key|access_?key"
    r"|(^|_)o?auth\d*(_|$)|authorization"
    r"|(?<!bos_)(?<!eos_)(?<!pad_)(?<!unk_)(?<!sep_)(?<!cls_)(?<!mask_)(?<!image_)(?<!action_)"
    r"token(?!iz|s$|s_|_?(len|count|size|ids?|types?|limit|per|drop|budget|num|dim|embed\w*)(_|$))"
)
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s]+@")
# `api_key=...`, `"api_key": ...` inside a text: an object's repr, a query string, JSON.
_ASSIGNED_NAME = re.compile(r"""(?<![\w.\-])([A-Za-z_\-][\w.\-]*)["']?\s*[=:]\s*""")
_ASSIGNED_VALUE = re.compile(
    r"""(?:(?:bearer|basic|token)\s+)?"""
    r"""("[^"]*"|'[^']*'|\[[^]]*]|\{[^}]*}|\([^)]*\)|[^\s,;&)}\]]+)""",
    re.IGNORECASE,
)
_SHORTEST = 12  # characters; shorter values of variables may be ordinary words


def looks_secret(name: str) -> bool:
    """Return whether a value stored under `name` should not be shown.

    `max_tokens`, `tokenizer`, `eos_token` and their like are a language model's, not a secret.
    """
    snake = _JOINTS.sub("_", _WORD_STARTS.sub("_", name)).lower()
    return _SECRET.search(snake) is not None


def redact(value: Any) -> Any:
    """Return a copy of `value` with secrets replaced, at every depth.

    Mappings lose the values under names that look secret. Texts lose credentials in URLs, what is
    assigned to such a name in them, and the values of environment variables of such names.
    """
    return _redact(value, _secrets_of_environment())


def redact_argv(argv: Sequence[str]) -> list[str]:
    """Return a copy of a command line without the values of options that look secret.

    Both `--api-key=...` and `--api-key ...` are known; the rest is redacted as any text.
    """
    secrets = _secrets_of_environment()
    clean: list[str] = []
    hide_next = False
    for argument in argv:
        name, equals, _ = argument.partition("=")
        if hide_next and not argument.startswith("-"):
            clean.append(REDACTED)
        elif equals and looks_secret(name):
            clean.append(f"{name}={REDACTED}")
        else:
            clean.append(_redact_text(argument, secrets))
        hide_next = not equals and argument.startswith("-") and looks_secret(argument)
    return clean


def _redact(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {
            key: REDACTED
            if isinstance(key, str) and looks_secret(key) and item
            else _redact(item, secrets)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_redact(item, secrets) for item in value]
    return _redact_text(value, secrets) if isinstance(value, str) else value


def _redact_text(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    text = _URL_CREDENTIALS.sub("", text)
    clean, kept_to = "", 0
    for name in _ASSIGNED_NAME.finditer(text):
        if name.start() >= kept_to and looks_secret(name[1]):
            value = _ASSIGNED_VALUE.match(text, name.end())
            if value:
                clean += text[kept_to : name.end()] + REDACTED
                kept_to = value.end()
    return clean + text[kept_to:]


def _secrets_of_environment() -> list[str]:
    found = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and not value.startswith(("/", ".", "~")) and looks_secret(name)
    }
    return sorted(found, key=len, reverse=True)  # one may be the beginning of another
