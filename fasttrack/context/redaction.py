"""Keep secrets out of everything that is written or sent."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

REDACTED = "[redacted]"

_SECRET = re.compile(
    r"token(?!iz|s\b|s_|_?(len|count|size|id|type|limit|per|drop|budget|num))"
    r"|secret|passw(or)?d|passphrase|api_?key|credential|private_?key|access_?key"
    r"|(^|[^a-z])auth($|[^a-z])|authorization",
    re.IGNORECASE,
)
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


def looks_secret(name: str) -> bool:
    """Return whether a value stored under `name` should not be shown.

    `max_tokens`, `tokenizer` and their like are a language model's, not a secret.
    """
    return _SECRET.search(name) is not None and not name.lower().endswith("tokens")


def redact(value: Any) -> Any:
    """Return a copy of `value` with secrets replaced, at every depth.

    Mappings lose the values under names that look secret; strings lose credentials in URLs.
    """
    if isinstance(value, dict):
        return {
            key: REDACTED if isinstance(key, str) and looks_secret(key) and item else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact(item) for item in value]
    if isinstance(value, str):
        return _URL_CREDENTIALS.sub("", value)
    return value


def redact_argv(argv: Sequence[str]) -> list[str]:
    """Return a copy of a command line without the values of options that look secret.

    Both `--api-key=...` and `--api-key ...` are known.
    """
    clean: list[str] = []
    hide_next = False
    for argument in argv:
        name, equals, _ = argument.partition("=")
        if hide_next and not argument.startswith("-"):
            clean.append(REDACTED)
        elif equals and looks_secret(name):
            clean.append(f"{name}={REDACTED}")
        else:
            clean.append(redact(argument))
        hide_next = (
            not equals and argument.startswith("-") and looks_secret(argument.replace("-", "_"))
        )
    return clean
