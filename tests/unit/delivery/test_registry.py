"""The table of backends says what the backends themselves say."""

from __future__ import annotations

from pathlib import Path

import pytest

from fasttrack.delivery.backends.base import Place
from fasttrack.delivery.backends.registry import BACKENDS, make_backend
from fasttrack.journal.cursor import Ledger


@pytest.mark.parametrize("name", BACKENDS)
def test_the_table_says_what_they_say(name: str, tmp_path: Path) -> None:
    """The trainer and `sync --watch` read the table, delivery asks the backend."""
    place = Place(run_dir=tmp_path, ledger=Ledger(), save=lambda: None, in_trainer=True)

    backend = make_backend(name, place)

    assert backend.takes_artifacts is BACKENDS[name].takes_artifacts
    assert backend.has_offline is BACKENDS[name].has_offline
