"""What the W&B backend remembers in its ledger."""

from __future__ import annotations

from typing import Any

import pytest

from fasttrack.delivery.backends.wandb.notes import Notes, SegmentSteps, load_notes
from fasttrack.journal.cursor import Ledger


def test_what_was_stored_is_loaded() -> None:
    """As it was."""
    notes = Notes(open_directory="offline-run-2", offline_directories=["offline-run-1"])
    notes.segment("segment-0001.jsonl").last_step = 7
    notes.segment("segment-0002.jsonl").base_step = 7
    ledger = Ledger()
    notes.store(ledger)

    assert load_notes(ledger) == notes
    assert load_notes(ledger).segment("segment-0003.jsonl") == SegmentSteps()


@pytest.mark.parametrize(
    "told", [{}, [], {"segments": []}, {"segments": {"a": {"b": 1}}}, {"of a newer version": 1}]
)
def test_notes_of_another_shape_count_as_none(told: Any) -> None:
    """A cursor somebody edited must not stop delivery for ever."""
    assert load_notes(Ledger(notes=told)) == Notes()
