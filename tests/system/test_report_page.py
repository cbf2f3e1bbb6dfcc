"""Runs in a real browser: what is drawn, zoomed, switched off, and asked for."""

from __future__ import annotations

import math
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.browser import needs_browser, page_url, running_browser
from support.journals import Line, append, finish, write_attempt
from support.late import need
from support.runs import make_tracker, run_dir
from support.trackers import journal_only

import fasttrack
from fasttrack.journal.alerts import Alert, save_alerts
from fasttrack.journal.entries import Console
from fasttrack.journal.rows import Row
from fasttrack.journal.run_directory import alerts_path
from fasttrack.runs import find_runs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import TypeAlias

    from PIL.Image import Image
    from support.browser import Browser, Page

    Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom

pytestmark = [needs_browser]
need("bokeh", "pages need Bokeh")

COLORS = {"first": (9, 105, 218), "second": (227, 98, 9)}  # in the order of the runs
DARK = {"first": (88, 166, 255), "second": (240, 136, 62)}
ALARM = (207, 34, 46)
EVIL = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"
DRAWN = "!!document.querySelector('.panel[data-metric=\"loss/total\"][data-drawn]')"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all of them."""
    with running_browser() as running:
        yield running


def rows(
    count: int,
    more: dict[str, float] | None = None,
    *,
    height: float,
    first: int = 0,
    bad: tuple[int, ...] = (),
) -> list[Line]:
    """Return rows of a loss that falls from `height`, some of them no numbers."""
    return [
        Row(
            i,
            i,
            1.7e9 + i * 60,
            {
                "loss/total": math.nan if i in bad else height * math.exp(-i / 100),
                "train/lr": 0.001,
                **(more or {}),
            },
        )
        for i in range(first, count)
    ]


def write_runs(base: Path) -> None:
    """Write two runs; what they say would be a script if it were not escaped."""
    printed = Console("stdout", f"{EVIL}\nthe end\n")
    falling = rows(500, height=2.0, bad=(250, 251))
    write_attempt(base, "first", *falling, printed, finish(), name=EVIL, time_s=1.7e9 - 60)
    alert = Alert(
        time_s=5.0, level="ERROR", title=EVIL, text="is NaN", kind="non_finite", key="a", step=250
    )
    save_alerts(alerts_path(run_dir(base, "first")), [alert])
    config = {"lr": 0.2, EVIL: EVIL}
    waits = {"perf/phase_pct/data": 35.0}
    falling = rows(500, waits, height=4.0)
    write_attempt(base, "second", *falling, finish(), name="second", config=config)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """A page of two runs."""
    from fasttrack.views.web.page import write_report

    write_runs(tmp_path)
    path = tmp_path / "report.html"
    write_report(find_runs(["first", "second"], tmp_path), path)
    return path


def opened(browser: Browser, url: str, **options: Any) -> Page:
    """Return a page whose charts are drawn."""
    page = browser.open(url, **options)
    page.wait_for("document.body?.dataset.ready === 'true'")
    page.wait_for(DRAWN)
    return page


def panel(page: Page, metric: str = "loss/total") -> Box:
    """Return where a metric's chart is: left, top, right, bottom."""
    box: list[float] = page.evaluate(
        f"""(() => {{ const box = document.querySelector('.panel[data-metric="{metric}"] .plot')
        .getBoundingClientRect(); return [box.left, box.top, box.right, box.bottom]; }})()"""
    )
    left, top, right, bottom = box
    return left, top, right, bottom


def count(image: Image, color: tuple[int, int, int], box: Box | None = None) -> int:
    """Return how many pixels have a color, but for the edges of what is drawn in it."""
    part = image if box is None else image.crop(box)
    return sum(
        number
        for number, found in part.getcolors(part.width * part.height) or []
        if isinstance(found, tuple) and max(map(abs, map(int.__sub__, found, color))) <= 12
    )


def wait_for_pixels(page: Page, color: tuple[int, int, int], *, there: bool) -> int:
    """Return how many pixels of the loss's chart have a color, once there are some, or none."""
    until_s = time.monotonic() + 30
    while True:
        number = count(page.picture(), color, panel(page))
        if number >= 40 if there else number == 0:
            return number
        assert time.monotonic() < until_s, f"{number} pixels of {color}; {page.errors()}"


def x_labels(page: Page) -> list[float]:
    """Return the ends of the axis that the loss's chart shows."""
    found: list[float] = page.evaluate(
        """(() => { const plot = Bokeh.documents.map((one) => one.roots()[0]).find((one) =>
        one.renderers.length); return [plot.x_range.start, plot.x_range.end]; })()"""
    )
    return found


def test_a_report_opens_without_network_and_without_an_error(
    browser: Browser, report: Path
) -> None:
    """Both runs are drawn, each in its color; the values that are none are marked."""
    page = opened(browser, page_url(report))
    for color in COLORS.values():
        wait_for_pixels(page, color, there=True)
    picture = page.picture()

    assert count(picture, ALARM, panel(page)) > 5
    assert count(picture, COLORS["second"], panel(page)) > 100
    assert page.errors() == []
    assert page.requests() == [page_url(report)]
    page.close()


def test_what_runs_say_is_text(browser: Browser, report: Path) -> None:
    """In their names, configuration and console; nothing of it runs."""
    page = opened(browser, page_url(report))
    assert page.evaluate("document.querySelector('[data-run=first] .name').textContent") == EVIL
    for tab, element, said in (
        ("configuration", "#configuration", EVIL),
        ("configuration", "#configuration", "Goodput"),
        ("configuration", "#configuration", "waiting for data: 35.0% of the training time"),
        ("console", "#console pre", f"{EVIL}\nthe end\n"),
        ("alerts", "#alerts", f"ERROR{EVIL}is NaNstep 250"),
    ):
        page.click(f"[data-tab={tab}]")
        assert said in page.evaluate(f"document.querySelector('{element}').textContent")
    box = panel_after_click(page)
    page.mouse("mouseMoved", (box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    told = page.wait_for("document.getElementById('tip').textContent")

    assert EVIL in told
    assert "step 2" in told
    assert page.evaluate("document.querySelectorAll('img, iframe').length") == 0
    assert page.evaluate("document.title") == "2 runs · fasttrack"
    assert page.errors() == []
    page.close()


def panel_after_click(page: Page) -> Box:
    """Go back to the charts; return where the loss's is."""
    page.click("[data-tab=charts]")
    page.wait_for(DRAWN)
    return panel(page)


def test_a_run_is_switched_off_and_on(browser: Browser, report: Path) -> None:
    """Its pixels go and come; those of the other stay."""
    page = opened(browser, page_url(report))
    wait_for_pixels(page, COLORS["first"], there=True)
    page.click("[data-run=first] input")
    assert wait_for_pixels(page, COLORS["first"], there=False) == 0
    assert wait_for_pixels(page, COLORS["second"], there=True) > 100
    page.click("[data-run=first] input")

    assert wait_for_pixels(page, COLORS["first"], there=True) > 100
    assert page.errors() == []
    page.close()


def test_the_line_of_a_resumed_run_begins_anew(browser: Browser, tmp_path: Path) -> None:
    """Nothing is drawn between the end of an attempt and a step further back."""
    from fasttrack.views.web.page import write_report

    for first, value in ((0, 1.0), (50, 3.0)):
        attempt = [Row(i, first + i, 1.7e9 + i, {"loss/total": value}) for i in range(100)]
        write_attempt(tmp_path, "first", *attempt, finish())
    write_report(find_runs(["first"], tmp_path), tmp_path / "report.html")
    page = opened(browser, page_url(tmp_path / "report.html"))
    wait_for_pixels(page, COLORS["first"], there=True)
    left, top, right, bottom = panel(page)
    height = bottom - top
    between = (left, top + 0.2 * height, right, top + 0.6 * height)

    assert count(page.picture(), COLORS["first"], between) == 0
    choose(page, "smoothing", "0")
    page.wait_for("document.getElementById('smoothed').textContent === 'off'")
    assert count(page.picture(), COLORS["first"], between) == 0
    page.close()


def test_a_drag_zooms_all_charts_and_a_double_click_shows_all_again(
    browser: Browser, report: Path
) -> None:
    """To what was dragged over; the button does what the double click does."""
    page = opened(browser, page_url(report))
    before = x_labels(page)
    left, top, right, bottom = panel(page)
    across, upright = right - left, (top + bottom) / 2
    page.drag((left + across * 0.5, upright), (left + across * 0.7, upright))
    page.wait_for("!document.getElementById('reset').hidden")
    page.wait_for("Bokeh.documents.every((one) => one.roots()[0].x_range.end < 450)")
    start, end = x_labels(page)

    assert 150 < start < 280
    assert 280 < end < 400
    assert wait_for_pixels(page, COLORS["second"], there=True) > 40
    page.click("#reset")
    page.wait_for("Bokeh.documents.every((one) => one.roots()[0].x_range.end > 450)")
    assert x_labels(page) == before
    assert page.evaluate("document.getElementById('reset').hidden") is True
    assert page.errors() == []
    page.close()


def choose(page: Page, control: str, value: str) -> None:
    """Set a control to a value, as a person does."""
    page.evaluate(
        f"""(() => {{ const it = document.getElementById('{control}'); it.value = '{value}';
        it.dispatchEvent(new Event('input')); it.dispatchEvent(new Event('change')); }})()"""
    )


def test_axes_smoothing_and_search_do_what_they_say(browser: Browser, report: Path) -> None:
    """Time in minutes and hours, a logarithm, no smoothing, and only metrics of some name."""
    page = opened(browser, page_url(report))
    choose(page, "axis", "relative")
    page.wait_for(DRAWN)
    assert x_labels(page)[1] == pytest.approx(499 / 60 * 1.02)  # 500 rows, one a minute, in hours
    choose(page, "axis", "clock")
    page.wait_for(DRAWN)
    assert x_labels(page)[0] == pytest.approx(1.7e12, rel=1e-3)
    choose(page, "axis", "step")
    page.click("#log")
    page.wait_for(DRAWN)
    assert wait_for_pixels(page, COLORS["second"], there=True) > 40
    choose(page, "smoothing", "0")
    page.wait_for("document.getElementById('smoothed').textContent === 'off'")
    choose(page, "search", "lr TRAIN")
    page.wait_for("!document.querySelector('[data-metric=\"loss/total\"]')")
    shown = page.evaluate("[...document.querySelectorAll('.panel')].map((e) => e.dataset.metric)")

    assert shown == ["train/lr"]
    choose(page, "search", "nothing")
    page.wait_for("document.getElementById('charts').innerText.includes('No metric is called so.')")
    assert page.errors() == []
    page.close()


def test_a_dark_desk_has_a_dark_page(browser: Browser, report: Path) -> None:
    """And lighter colors."""
    page = opened(browser, page_url(report), dark=True)
    wait_for_pixels(page, DARK["first"], there=True)
    picture = page.picture()

    assert picture.getpixel((5, picture.height - 5)) == (13, 17, 23)
    assert page.errors() == []
    page.close()


def test_two_hundred_metrics_and_none_are_shown(browser: Browser, tmp_path: Path) -> None:
    """Only the charts in sight are drawn; a run without rows is a page, too."""
    from fasttrack.views.web.page import write_report

    many = {f"layer{k // 20}/norm{k}": float(k) for k in range(198)}
    write_attempt(tmp_path, "many", *rows(30, many, height=1.0), finish())
    write_attempt(tmp_path, "none")
    write_report(find_runs(["many"], tmp_path), tmp_path / "many.html")
    write_report(find_runs(["none"], tmp_path), tmp_path / "none.html")
    page = opened(browser, page_url(tmp_path / "many.html"))

    assert page.evaluate("document.querySelectorAll('.panel').length") == 200
    assert 3 < page.evaluate("document.querySelectorAll('.panel[data-drawn]').length") < 60
    assert page.evaluate("document.querySelectorAll('details').length") == 12
    assert page.errors() == []
    page.close()
    page = browser.open(page_url(tmp_path / "none.html"))
    page.wait_for("document.body?.dataset.ready === 'true'")
    assert "No metrics yet." in page.evaluate("document.getElementById('charts').innerText")
    assert page.errors() == []
    page.close()


def test_media_are_shown_and_their_texts_are_texts(browser: Browser, tmp_path: Path) -> None:
    """In a file as on a live page, there when somebody looks: each picture in its pixels."""
    from fasttrack.views.web.page import write_report
    from fasttrack.views.web.server import RunServer

    red = np.zeros((8, 8, 3), np.uint8)
    red[:] = (200, 30, 60)
    with make_tracker(options=journal_only(), resume_id="first") as tracker:
        for step in range(6):
            tracker.log_training_step(1.0, step)
            tracker.log_media("picture", fasttrack.Image(red, caption=EVIL), step)
        tracker.log_media("table", fasttrack.Table(columns=[EVIL], data=[[EVIL], [2]]))
        tracker.log_media("weights", fasttrack.Histogram([0.0, 1.0, 1.0]))
        tracker.log_media("words", EVIL)
        tracker.log_media("source", fasttrack.Html(EVIL))
    write_report(find_runs(["first"], tmp_path), tmp_path / "report.html")

    def look(page: Page) -> None:
        page.click("[data-tab=media]")
        page.wait_for("document.querySelectorAll('[data-media]').length === 5")
        page.wait_for("[...document.images].every((image) => image.complete)")
        sizes = page.evaluate("[...document.images].map((image) => image.naturalWidth)")
        told = page.evaluate("document.getElementById('media').innerText")
        assert sizes == [8] * 4  # of six the newest
        assert told.count(EVIL) == 4 + 2 + 2
        assert "step 5" in told
        assert page.evaluate("document.querySelectorAll('rect').length") == 64
        assert count(page.picture(), (200, 30, 60)) > 4 * 60
        assert page.errors() == []
        page.close()

    look(opened(browser, page_url(tmp_path / "report.html")))
    with RunServer(tmp_path) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        look(opened(browser, server.url))
        server.shutdown()
        thread.join()


def test_a_live_page_follows_runs_and_finds_new_ones(browser: Browser, tmp_path: Path) -> None:
    """Rows, a run's end, another run; the server's end is said, and what was there stays."""
    from fasttrack.views.web.server import RunServer

    write_runs(tmp_path)
    live = write_attempt(tmp_path, "live", *rows(100, height=9.0), pid=os.getpid(), name="live")
    with RunServer(tmp_path) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        page = opened(browser, server.url)
        assert page.evaluate("document.querySelectorAll('#runs li').length") == 3
        assert page.evaluate("document.querySelectorAll('#runs input:checked').length") == 3
        assert "running" in page.evaluate("document.querySelector('[data-run=live]').innerText")

        append(live, *rows(900, {"late": 1.0}, height=9.0, first=100))
        page.wait_for("!!document.querySelector('[data-metric=late]')")
        page.wait_for("Bokeh.documents.some((one) => one.roots()[0].x_range.end > 850)")
        append(live, finish(1))
        page.wait_for("!!document.querySelector('[data-run=live] .state-failed')")
        write_attempt(tmp_path, "new", *rows(10, height=1.0), pid=os.getpid(), name="new")
        page.wait_for("!!document.querySelector('[data-run=new] input:checked')")
        assert page.errors() == []
        assert {url.split("/")[2] for url in page.requests()} == {f"127.0.0.1:{server.server_port}"}
        assert page.evaluate("document.querySelectorAll('img, iframe').length") == 0
        server.shutdown()
        thread.join()
    page.wait_for(
        "document.getElementById('banner').innerText.includes('does not answer any more')"
    )
    assert page.evaluate("document.querySelectorAll('#runs li').length") == 4
    page.close()
