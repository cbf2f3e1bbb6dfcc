"""Send one message: to a webhook in Slack's form, to a command."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from typing import TYPE_CHECKING

from fasttrack.delivery.alerting.message import SendError
from fasttrack.journal.json_bytes import json_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.delivery.alerting.message import Message

SEND_S = 10.0
"""What a webhook or a command may take."""

_PLAIN = " !#$&'()*+,-./:;<=>?@[]^_`{|}~"  # what may stand in a header as it is
_OURS = ("PYTHONSAFEPATH", "CUDA_VISIBLE_DEVICES")  # set for this process, not for others


class Webhook:
    """Post messages as `{"text": ...}`, as Slack, Mattermost, Discord (`/slack`) and others take.

    Threads: one at a time.
    """

    def __init__(self, address: str, timeout_s: float = SEND_S) -> None:
        """Post to `address`, which is a secret."""
        self._address = address
        self._timeout_s = timeout_s

    def __call__(self, message: Message) -> None:
        """Post `message`. Blocks up to the timeout.

        Raises:
            SendError: it did not arrive, as far as is known.
        """
        _within(self._timeout_s, lambda: self._post(message))

    def _post(self, message: Message) -> None:
        import http.client  # hardly ever needed
        import urllib.error
        import urllib.parse
        import urllib.request

        class NoRedirect(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *_: object) -> None:
                return None  # the answer would be another page's, and its address is not ours

        key = urllib.parse.quote(message.key, safe=_PLAIN)  # a metric may have any name
        request = urllib.request.Request(
            self._address,
            data=json_bytes({"text": message.line}),
            headers={"Content-Type": "application/json", "Idempotency-Key": key},
        )
        try:
            opener = urllib.request.build_opener(NoRedirect)
            with opener.open(request, timeout=self._timeout_s):
                return
        except urllib.error.HTTPError as error:
            status = error.code
            error.close()
            is_final = 300 <= status < 500 and status not in (408, 425, 429)
            raise SendError(f"HTTP {status}", final=is_final) from None
        except urllib.error.URLError as error:
            raise SendError(_why(error.reason)) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SendError(_why(error)) from None


class Command:
    """Run a command for each message: its line on standard input, its parts in the environment.

    Threads: one at a time.
    """

    def __init__(self, words: tuple[str, ...], timeout_s: float = SEND_S) -> None:
        """Run `words`, the program and its arguments."""
        self._words = words
        self._timeout_s = timeout_s

    def __call__(self, message: Message) -> None:
        """Run it. Blocks up to the timeout, and kills it then.

        Raises:
            SendError: it was not found, did not end in time, or not with exit code 0.
        """
        told = {
            "FASTTRACK_ALERT_LEVEL": message.level,
            "FASTTRACK_ALERT_TITLE": message.title,
            "FASTTRACK_ALERT_TEXT": message.text,
            "FASTTRACK_ALERT_RUN": message.run,
            "FASTTRACK_ALERT_URL": message.url or "",
            "FASTTRACK_ALERT_KEY": message.key,
        }
        told = {name: value.replace("\0", "\\0") for name, value in told.items()}
        theirs = {name: value for name, value in os.environ.items() if name not in _OURS}
        try:
            process = subprocess.Popen(
                self._words,
                env={**theirs, **told},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise SendError(f"it cannot be started: {_why(error)}", final=True) from None
        try:
            process.communicate(f"{message.line}\n".encode(), timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise SendError(f"it did not end within {self._timeout_s:g} s") from None
        if process.returncode:
            raise SendError(f"exit code {process.returncode}")


def _within(seconds: float, act: Callable[[], None]) -> None:
    """Do something that has timeouts for its parts, and might have very many parts."""
    outcome: list[BaseException | None] = []

    def run() -> None:
        try:
            act()
            outcome.append(None)
        except BaseException as error:  # for who waits
            outcome.append(error)

    thread = threading.Thread(target=run, name="alert-try", daemon=True)
    thread.start()
    thread.join(seconds + 1.0)
    if not outcome:
        raise SendError(f"no answer within {seconds:g} s")
    if isinstance(outcome[0], SendError):
        raise outcome[0]
    if outcome[0] is not None:
        raise SendError(type(outcome[0]).__name__)


def _why(error: object) -> str:
    """Return why, without anything that a library may have put in of an address."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
