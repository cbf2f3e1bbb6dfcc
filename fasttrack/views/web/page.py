"""The page itself: one file, with script, style and data in it, that asks nobody for anything."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fasttrack.errors import FasttrackError
from fasttrack.runs.patterns import matches, require_matches
from fasttrack.views.web.library import library_script
from fasttrack.views.web.page_run import PageRun

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fasttrack.runs.local import LocalRun

_ASSETS = Path(__file__).with_name("assets")
_SCRIPTS = (
    "payload.js",
    "lines.js",
    "chart.js",
    "sections.js",
    "media.js",
    "panels.js",
    "page.js",
    "start.js",
)
_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; "
    "img-src data: blob:; media-src data:; font-src data:; connect-src {connect}; "
    "base-uri 'none'; form-action 'none'"
)


def write_report(runs: Sequence[LocalRun], path: Path, *, metrics: Sequence[str] = ()) -> None:
    """Write a page of `runs` that opens in a browser without network or server.

    Args:
        runs: what to show; several are drawn over each other, a color each.
        path: the file to write.
        metrics: names of metrics, or patterns such as 'loss/*'; none: all.

    Raises:
        FasttrackError: Bokeh is missing, the runs have no such metric, one cannot be read, or
            `path` cannot be written.
    """
    library_script()  # before a second is spent on reading

    @cache
    def is_wanted(name: str) -> bool:
        return not metrics or matches(name, metrics)

    payloads: list[bytes] = []
    names: set[str] = set()
    for number, run in enumerate(runs):
        shown = PageRun(run, str(number), is_wanted, pages=len(runs), with_media=True)
        payloads.append(shown.pack())
        names.update(shown.metrics)
    if metrics:
        _require(names, runs, metrics)
    named = [run.name or run.run_id for run in runs]
    page = make_page(payloads, named[0] if len(runs) == 1 else f"{len(runs)} runs")
    try:
        path.write_bytes(page)
    except OSError as error:
        raise FasttrackError(f"cannot write the page {path}: {error}") from error


def _require(names: set[str], runs: Sequence[LocalRun], metrics: Sequence[str]) -> None:
    """Check that each pattern has found a metric."""
    if not all(any(matches(name, [pattern]) for name in names) for pattern in metrics):
        there = {name for run in runs for name in run.metrics()}
        require_matches(there, metrics, several_runs=len(runs) > 1)


def make_page(payloads: Sequence[bytes], title: str, *, live: bool = False) -> bytes:
    """Return the page.

    Args:
        payloads: of the runs that it shows.
        title: of its window, until its script has begun.
        live: whether it asks the server that it comes from for runs, instead.

    Raises:
        FasttrackError: Bokeh is missing.
    """
    data = b"".join(len(payload).to_bytes(4, "little") + payload for payload in payloads)
    packed = _packed(data)
    nonce = hashlib.sha256(packed.encode()).hexdigest()[:32]
    texts = {
        "title": html.escape(title.encode(errors="replace").decode()),
        "policy": html.escape(policy(nonce, live=live)),
        "style": _asset("page.css"),
        "live": str(live).lower(),
        "library": _packed(library_script().encode()),
        "data": packed,
        "nonce": nonce,
        "script": "\n".join(["(() => {", "'use strict';", *map(_asset, _SCRIPTS), "})();"]),
    }
    pieces = _asset("page.html").split("@")
    pieces[1::2] = [texts[name] for name in pieces[1::2]]
    return "".join(pieces).encode()


def policy(nonce: str, *, live: bool) -> str:
    """Return what the page may load and run, as browsers are told it: its own script only."""
    return _POLICY.format(nonce=nonce, connect="'self'" if live else "'none'")


@cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()
