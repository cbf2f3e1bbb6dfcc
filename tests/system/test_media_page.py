"""Every snippet of docs/media.md runs as it stands there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.runs import make_tracker
from support.snippets import ROOT, Pages, Snippet, missing_links
from support.trackers import journal_only

import fasttrack

PAGE = ROOT / "docs" / "media.md"
pages = Pages(PAGE)


@pages.runs("log_media(", "open_run")
def test_what_is_logged_is_read_back(
    snippets: tuple[Snippet, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """The calls of the first snippet; the second has the run's id in the place of its own."""
    logged, read = snippets
    with make_tracker(options=journal_only(), resume_id="3fk2a1bc", tags=None) as tracker:
        logged.run(
            {
                "tracker": tracker,
                "fasttrack": fasttrack,
                "images": torch.rand(20, 3, 64, 64),
                "image": np.zeros((28, 28), np.uint8),
                "layer": torch.nn.Linear(4, 4),
                "rows": [[9, 4, 1]],
                "waveform": torch.zeros(160),
                "step": 7,
            }
        )
    read.run({"fasttrack": fasttrack})

    run = fasttrack.open_run("3fk2a1bc")
    kinds = ["image", "image", "histogram", "table", "audio", "text"]
    assert [(one.kind, one.step) for one in run.media()] == [(kind, 7) for kind in kinds]
    assert len(run.media("val/samples")[0].paths) == 16
    assert tracker.stats().refused == 0
    assert capsys.readouterr().out.startswith("7 image ")


def test_every_snippet_of_the_media_page_is_run() -> None:
    """As in docs/'s other pages."""
    assert pages.not_run() == []
    assert pages.unknown() == []
    assert missing_links(PAGE) == []
