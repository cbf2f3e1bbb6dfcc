"""Keep secrets out of everything that is written or sent."""

from __future__ import annotations

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


def looks_secret(name: str) -> bool:
    """Return whether a value stored under `name` should not be shown.

    `max_tokens`, `tokenizer`, `eos_token` and their like are a language model's, not a secret.
    """
    snake = _JOINTS.sub("_", _WORD_STARTS.sub("_", name)).lower()
    return _SECRET.search(snake) is not None


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
        hide_next = not equals and argument.startswith("-") and looks_secret(argument)
    return clean
