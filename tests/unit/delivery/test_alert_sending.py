"""Who is told of alerts: once each, in spite of what refuses, hangs or dies."""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.webhooks import WebhookServer

from fasttrack.alerts.judge import ERROR, Finding
from fasttrack.delivery.alerting.book import AlertBook
from fasttrack.delivery.alerting.handover import Handover
from fasttrack.delivery.alerting.message import Message, SendError, message_of
from fasttrack.delivery.alerting.outlets import Command, Webhook
from fasttrack.delivery.alerting.sender import Sender
from fasttrack.delivery.alerting.standing import Outlook, Standing
from fasttrack.delivery.events import Event, Said
from fasttrack.errors import BackendLostError
from fasttrack.journal.alerts import Alert, load_alerts
from fasttrack.journal.run_directory import alerts_path
from fasttrack.runs.alerts import read_alerts

MESSAGE = Message(
    key="r1:crash:1", level=ERROR, title="died", text="it died", run="a run", url=None, time_s=1.0
)


def finding(key: str = "crash:1") -> Finding:
    """Return something that was found."""
    return Finding(key, "crash", ERROR, "training died", f"it died ({key})", 5.0, 7)


def to_message(alert: Alert) -> Message:
    """Return what is sent of an alert."""
    return message_of(alert, "r1", "a run", "http://page")


@pytest.fixture
def book(tmp_path: Path) -> AlertBook:
    """A run's book."""
    return AlertBook(tmp_path)


# --- the book -------------------------------------------------------------------------------------


def test_each_cause_is_noted_once_whoever_finds_it(book: AlertBook, tmp_path: Path) -> None:
    """Also by the next process."""
    assert book.add(finding(), 1, ("webhook",)) is not None
    assert book.add(finding(), 1, ("webhook",)) is None
    later = AlertBook(tmp_path)

    assert later.add(finding(), 1, ("webhook",)) is None
    assert [alert.key for alert in later.due("webhook")] == ["crash:1"]
    assert later.due("wandb") == []
    assert oct(alerts_path(tmp_path).stat().st_mode & 0o777) == "0o600"


def test_what_goes_wrong_again_and_again_is_told_twenty_times(book: AlertBook) -> None:
    """More is noise; other causes are told on."""
    for step in range(100):
        book.add(finding(f"rule:a > 1:{step}"), 1, ("webhook",))
    assert len(book.due("webhook")) == 20

    assert book.add(finding("rule:a > 2:0"), 1, ()) is not None


def test_a_run_tells_its_alerts_and_how_it_went_with_them(book: AlertBook, tmp_path: Path) -> None:
    """For `show` and reports: time, level, title and text come first."""
    book.add(finding(), 2, ("stderr", "webhook", "wandb"))
    book.note("crash:1", "stderr")
    for _ in range(2):
        book.note("crash:1", "webhook", "HTTP 500")

    (alert,) = read_alerts(tmp_path)
    assert alert[:4] == (5.0, "ERROR", "training died", "it died (crash:1)")
    assert (alert.kind, alert.step, alert.attempt) == ("crash", 7, 2)
    assert alert.told == {
        "stderr": "told",
        "webhook": "waits; 2 tries in vain (HTTP 500)",
        "wandb": "waits",
    }
    book.note("crash:1", "webhook")
    assert read_alerts(tmp_path)[0].told["webhook"] == "told, after 2 tries in vain"
    assert read_alerts(tmp_path / "elsewhere") == []


def test_a_full_disk_is_written_to_later(book: AlertBook, tmp_path: Path) -> None:
    """Meanwhile it is known in this process."""
    scratch = alerts_path(tmp_path).with_suffix(".tmp")
    scratch.mkdir()
    book.add(finding(), 1, ("webhook",))
    assert book.error is not None
    assert len(book.due("webhook")) == 1
    scratch.rmdir()
    book.note("crash:1", "webhook")

    assert book.error is None
    assert load_alerts(alerts_path(tmp_path))[0].sent["webhook"].done


# --- webhook and command --------------------------------------------------------------------------


def test_a_webhook_gets_a_text_and_a_key() -> None:
    """In the form that Slack's takes."""
    with WebhookServer() as hook:
        Webhook(hook.url)(MESSAGE)

    assert hook.texts == ["ERROR a run: it died"]
    assert hook.keys == ["r1:crash:1"]


def test_a_metric_of_any_name_is_told_of(tmp_path: Path) -> None:
    """A header has no letters beyond Latin, and an environment no NUL: alerts never arrived."""
    told = tmp_path / "told"
    named = replace(MESSAGE, key="r1:rule:損失\0\n/loss > 3:7", text="損失\0/loss is 4")
    code = f"import os; open({str(told)!r}, 'w').write(os.environ['FASTTRACK_ALERT_TEXT'])"
    with WebhookServer() as hook:
        Webhook(hook.url)(named)
    Command((sys.executable, "-S", "-c", code))(named)

    assert hook.keys == ["r1:rule:%E6%90%8D%E5%A4%B1%00%0A/loss > 3:7"]
    assert hook.texts == ["ERROR a run: 損失\0/loss is 4"]
    assert told.read_text() == "損失\\0/loss is 4"


@pytest.mark.parametrize(
    ("status", "final"), [(500, False), (429, False), (404, True), (302, True)]
)
def test_a_refusal_says_its_status_and_whether_to_try_again(status: int, final: bool) -> None:
    """A redirection is not followed: the address is a secret."""
    with WebhookServer() as hook:
        hook.status = status
        with pytest.raises(SendError, match=f"HTTP {status}") as caught:
            Webhook(hook.url)(MESSAGE)

    assert caught.value.final is final
    assert hook.requests == 1


def test_a_webhook_that_hangs_or_is_not_there_is_given_up_without_its_address() -> None:
    """Within its time."""
    with WebhookServer() as hook:
        hook.hangs.set()
        with pytest.raises(SendError, match="no answer in time"):
            Webhook(hook.url, timeout_s=0.2)(MESSAGE)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(SendError, match="refused") as caught:
        Webhook(f"http://127.0.0.1:{port}/very-secret")(MESSAGE)

    assert "secret" not in str(caught.value)


def test_a_command_gets_the_line_and_its_parts(tmp_path: Path) -> None:
    """On standard input, and by its environment."""
    told = tmp_path / "told"
    code = (
        "import os, sys; told = sys.stdin.read() + os.environ['FASTTRACK_ALERT_TITLE']; "
        f"open({str(told)!r}, 'w').write(told)"
    )
    Command((sys.executable, "-S", "-c", code))(MESSAGE)

    assert told.read_text() == "ERROR a run: it died\ndied"


@pytest.mark.parametrize(
    ("words", "why", "final"),
    [
        (("/no/such/program",), "it cannot be started: No such file", True),
        ((sys.executable, "-S", "-c", "raise SystemExit(3)"), "exit code 3", False),
        (("sleep", "60"), "it did not end within 0.2 s", False),
    ],
)
def test_a_command_that_fails_says_why(words: tuple[str, ...], why: str, final: bool) -> None:
    """One that hangs is killed."""
    timeout_s = 0.2 if words[0] == "sleep" else 30.0
    with pytest.raises(SendError, match=why) as caught:
        Command(words, timeout_s)(MESSAGE)

    assert caught.value.final is final


# --- senders --------------------------------------------------------------------------------------


class Place:
    """Somebody who refuses at first."""

    def __init__(self, *errors: SendError) -> None:
        """Refuse with each of `errors`, then take everything."""
        self._errors = list(errors)
        self.texts: list[str] = []

    def __call__(self, message: Message) -> None:
        """Take a message, or refuse."""
        if self._errors:
            raise self._errors.pop(0)
        self.texts.append(message.text)


def send(book: AlertBook, place: Place) -> tuple[bool, list[Event]]:
    """Send what is due; return whether nothing is then, and what was said."""
    said: list[Event] = []
    sender = Sender("webhook", place, book, to_message, said.append, pause=lambda seconds: None)
    sender.start()
    is_empty = sender.drain(time.monotonic() + 60)
    sender.close()
    return is_empty, said


def test_what_fails_for_a_while_is_tried_again_and_counted(book: AlertBook) -> None:
    """Nobody is bothered with it."""
    book.add(finding(), 1, ("webhook",))
    place = Place(SendError("HTTP 500"), SendError("HTTP 500"))

    assert send(book, place) == (True, [])
    assert place.texts == ["it died (crash:1)"]
    assert book.alerts()[0].sent["webhook"].tries == 2


def test_there_is_a_limit_and_the_next_process_begins_anew(book: AlertBook) -> None:
    """The others are sent nevertheless; what failed is said once, and kept."""
    for key in ("crash:1", "crash:2", "crash:3"):
        book.add(finding(key), 1, ("webhook",))
    place = Place(*[SendError("HTTP 500")] * 5, SendError("HTTP 404", final=True))
    is_empty, said = send(book, place)

    assert not is_empty
    assert place.texts == ["it died (crash:3)"]
    assert [alert.sent["webhook"].tries for alert in book.alerts()] == [5, 1, 0]
    assert {event.key for event in said if isinstance(event, Said)} == {"alerts:webhook"}
    assert send(book, place) == (True, [])
    assert place.texts == ["it died (crash:3)", "it died (crash:1)", "it died (crash:2)"]


def test_a_place_that_hangs_is_left_alone_at_the_end(book: AlertBook) -> None:
    """What was not sent is due."""
    book.add(finding(), 1, ("webhook",))
    with WebhookServer() as hook:
        hook.hangs.set()
        said: list[Event] = []
        sender = Sender("webhook", Webhook(hook.url), book, to_message, said.append)
        sender.start()
        hook.wait_for_requests(1)

        assert sender.drain(time.monotonic()) is False
        sender.close()
    assert book.due("webhook")


# --- W&B's own ------------------------------------------------------------------------------------


class Session:
    """A session with alerts of its own."""

    def __init__(self) -> None:
        """Take them."""
        self.lost = False
        self.titles: list[str] = []
        self.numbers: list[int] = []

    def alert(self, title: str, text: str, level: str, *, nth: int) -> None:
        """Take an alert."""
        if self.lost:
            raise BackendLostError("gone")
        self.titles.append(title)
        self.numbers.append(nth)


def test_alerts_whose_titles_begin_alike_are_numbered_in_every_session(book: AlertBook) -> None:
    """W&B drops a second one of a title for a while, as one that was sent again."""
    for step in range(2):
        book.add(finding(f"rule:a:{step}"), 1, ("wandb",))
    other = finding("rule:b:2")._replace(title="something else")
    book.add(other, 1, ("wandb",))
    handover = Handover("wandb", book, to_message, lambda _: True)
    first, second = Session(), Session()
    handover.send(first)
    book.note("rule:a:0", "wandb")
    handover.begin()
    handover.send(second)

    assert first.numbers == [1, 2, 1]
    assert second.numbers == [2, 1]


def test_what_a_session_took_counts_once_it_was_seen_to_live(book: AlertBook) -> None:
    """Or has ended in order; the next one takes what one that broke may have lost."""
    now_s = [0.0]
    handover = Handover("wandb", book, to_message, lambda s: True, clock=lambda: now_s[0])
    book.add(finding(), 1, ("wandb",))
    first, second = Session(), Session()
    handover.begin()
    handover.send(first)
    handover.send(first)
    assert first.titles == ["training died"]
    assert book.due("wandb")
    handover.begin()
    handover.send(second)
    now_s[0] = 6.0
    handover.send(second)
    assert second.titles == ["training died"]
    assert book.due("wandb") == []
    book.add(finding("crash:2"), 1, ("wandb",))
    handover.send_last(second)
    handover.finished()

    assert len(second.titles) == 2
    assert book.due("wandb") == []


def test_a_session_without_alerts_or_one_that_is_lost_leaves_them_due(book: AlertBook) -> None:
    """TensorBoard has none."""
    handover = Handover("wandb", book, to_message, lambda s: True)
    book.add(finding(), 1, ("wandb",))
    handover.send(object())
    lost = Session()
    lost.lost = True
    with pytest.raises(BackendLostError):
        handover.send(lost)
    handover.finished()

    assert book.due("wandb")


# --- how the trainer looks from outside -----------------------------------------------------------


def test_who_takes_what_is_written_for_it_does_not_stand_still() -> None:
    """What lies there from one look to the next was not taken."""
    ours, theirs = os.pipe()
    try:
        look = Outlook(os.getpid(), theirs)
        assert look() == Standing()
        os.write(theirs, b"beat\n")
        assert look() == Standing(stopped=False, still=False)
        assert look() == Standing(stopped=False, still=True)
        os.read(ours, 100)
        assert look() == Standing()
    finally:
        os.close(ours)
        os.close(theirs)
    assert look() == Standing()
