"""What unit tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.trackers import Trackers

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def make() -> Iterator[Trackers]:
    """What makes trackers that keep their journal only; they are finished afterwards."""
    trackers = Trackers()
    yield trackers
    trackers.finish()
