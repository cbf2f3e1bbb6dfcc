"""The table of backends says what the backends themselves say."""

from __future__ import annotations

from pathlib import Path

import pytest

from fasttrack.delivery.backends.base import Place
from fasttrack.delivery.backends.registry import BACKENDS, make_backend
from fasttrack.journal.cursor import Ledger


@pytest.mark.parametrize("name", BACKENDS)
def test_the_trainer_stages_files_for_who_takes_them(name: str, tmp_path: Path) -> None:
    """The trainer reads the table, delivery asks the backend."""
    place = Place(run_dir=tmp_path, ledger=Ledger(), save=lambda: None, in_trainer=True)

    assert make_backend(name, place).takes_artifacts is BACKENDS[name].takes_artifacts
