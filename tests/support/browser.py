"""A real browser without a window: pages are loaded, clicked, and looked at.

Chromium is told what to do by its DevTools protocol, over two pipes: no port, no driver.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.Image import Image

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_HANG_GUARD_S = 60.0
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # root may not have one
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--force-device-scale-factor=1",
    "--remote-debugging-pipe",
)


def browser_path() -> str | None:
    """Return where Chromium is; None: not on this machine."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


needs_browser = pytest.mark.skipif(
    browser_path() is None, reason="needs Chromium (apt-get install chromium)"
)


class Browser:
    """A browser that runs; each page is a tab of it."""

    def __init__(self, read: int, write: int) -> None:
        """Talk over two pipes."""
        self._read, self._write = read, write
        self._last = 0
        self._torn = b""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Ask the browser for something; return what it answers."""
        self._last += 1
        number = self._last
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._torn:
            data = os.read(self._read, 1 << 20)
            assert data, "the browser has ended"
            self._torn += data
        message, _, self._torn = self._torn.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def open(self, url: str, *, dark: bool = False, width: int = 1400, height: int = 900) -> Page:
        """Return a new tab that has begun to load `url`."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        page.call("Emulation.setDeviceMetricsOverride", **metrics)
        page.call("Page.navigate", url=url)
        return page


class Page:
    """A tab."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        """Be a tab of `browser`."""
        self._browser = browser
        self._session = session
        self._target = target

    def call(self, method: str, **parameters: Any) -> Any:
        """Ask the browser for something of this tab."""
        return self._browser.call(method, self._session, **parameters)

    def evaluate(self, source: str) -> Any:
        """Return the value of an expression of JavaScript; a promise's once it is kept."""
        answer = self.call(
            "Runtime.evaluate", expression=source, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, source: str) -> Any:
        """Return the value of an expression as soon as it is true."""
        until_s = time.monotonic() + _HANG_GUARD_S
        while not (value := self.evaluate(source)):
            assert time.monotonic() < until_s, f"never true: {source}; {self.errors()}"
            self.evaluate("new Promise((done) => setTimeout(done, 30))")
        return value

    def errors(self) -> list[str]:
        """Return what went wrong on the page by now: its console's errors, and exceptions."""
        self.evaluate("0")
        found = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            told = event["params"]
            match event["method"]:
                case "Runtime.exceptionThrown":
                    found.append(json.dumps(told["exceptionDetails"]))
                case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                    found.append(json.dumps(told["args"]))
                case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                    found.append(json.dumps(told["entry"]))
        return found

    def requests(self) -> list[str]:
        """Return the URLs that the page has asked for."""
        self.evaluate("0")
        return [
            event["params"]["request"]["url"]
            for event in self._browser.events
            if event["method"] == "Network.requestWillBeSent"
            and event.get("sessionId") == self._session
        ]

    def click(self, selector: str) -> None:
        """Click the first element that a selector finds."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag the mouse over the page."""
        (x, y), (to_x, to_y) = start, end
        way = [(x + (to_x - x) * part / 5, y + (to_y - y) * part / 5) for part in range(1, 6)]
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y)
        for place in way:
            self.mouse("mouseMoved", *place)
        self.mouse("mouseReleased", to_x, to_y)

    def mouse(self, kind: str, x: float, y: float) -> None:
        """Move, press or release the mouse somewhere."""
        pressed = kind != "mouseMoved"
        self.call(
            "Input.dispatchMouseEvent",
            type=kind,
            x=x,
            y=y,
            button="left" if pressed else "none",
            clickCount=int(pressed),
        )

    def picture(self) -> Image:
        """Return what the tab shows."""
        from PIL import Image

        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return Image.open(io.BytesIO(data)).convert("RGB")

    def close(self) -> None:
        """Close the tab."""
        self._browser.call("Target.closeTarget", targetId=self._target)


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Run a browser for the block."""
    path = browser_path()
    assert path is not None
    to_it, from_it = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        # It reads from descriptor 3 and writes to 4.
        shell = f'exec "$0" "$@" 3<&{to_it[0]} 4>&{from_it[1]}'
        command = ["bash", "-c", shell, path, *_OPTIONS, f"--user-data-dir={home}", "about:blank"]
        process = subprocess.Popen(
            command,
            pass_fds=(to_it[0], from_it[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": home},
        )
        os.close(to_it[0])
        os.close(from_it[1])
        browser = Browser(from_it[0], to_it[1])
        try:
            yield browser
            browser.call("Browser.close")
        finally:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(from_it[0])
            os.close(to_it[1])


def page_url(path: Path) -> str:
    """Return the URL of a file."""
    return path.absolute().as_uri()
