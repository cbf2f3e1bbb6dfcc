"""Where the run is recorded: what all nodes tell, as rows of the run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fasttrack.journal.hardware import MISSING, SAMPLED, age_metric, gpu_metric, host_metric
from fasttrack.journal.run_directory import node_names, node_path
from fasttrack.nodes.files import NodeReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fasttrack.nodes.files import Sample
    from fasttrack.notices import Notices

_MISSED = 3  # intervals without a sample, after which a node is missing
_START_S = 30.0  # that nodes may start apart before it is said; they are counted at once
_MOST_NAMED = 8


class _Node:
    """What is known of a node."""

    def __init__(self, path: Path, now_s: float) -> None:
        self.reader = NodeReader(path)
        self.heard_s = now_s  # clock
        self.keys: dict[tuple[int, str], str] = {}  # (GPU, -1 for the host; figure) -> metric


class Gathering:
    """Read the nodes' files and make rows of them.

    Threads: one at a time.
    """

    def __init__(
        self,
        segment: Path,
        interval_s: float,
        expected: int | None,
        notices: Notices,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Know of no node yet.

        Args:
            segment: what the run's attempt writes; the nodes' files lie beside it.
            interval_s: how often a node is sampled.
            expected: how many nodes there are; None: those that tell something.
            notices: told which nodes are missing.
            clock: in seconds.
            wall: unix time in seconds.
        """
        self._segment = segment
        self._interval_s = interval_s
        self._expected = expected
        self._notices = notices
        self._clock = clock
        self._wall = wall
        self._nodes: dict[str, _Node] = {}
        self._began_s = self._clock()
        self._due_s: float | None = None  # None: before the first rows
        self._told_missing: set[str] = set()

    def rows(self, *, last: bool = False) -> Iterator[dict[str, float]]:
        """Yield the rows that are due: one of each node's sample, and one that counts them.

        Looks at the disk once in an interval, until the first rows more often. Of samples that
        waited before these, the newest of each node counts.

        Args:
            last: whether there will be no more.
        """
        now_s = self._clock()
        first = self._due_s is None
        if self._due_s is not None and now_s < self._due_s and not last:
            return
        self._find(now_s)
        if first and not last:
            wanted = 1 if self._expected is None else self._expected
            if len(self._nodes) < wanted and now_s < self._began_s + self._interval_s:
                return
        self._due_s = max((self._due_s or now_s) + self._interval_s, now_s)
        sampled = 0
        for name, node in self._nodes.items():
            samples = self._read(node, now_s)
            sampled += bool(samples)
            for sample in samples[-1:] if first else samples:
                yield self._row(name, node, sample)
        if sampled or not last:
            yield {MISSING: self._count_missing(now_s), SAMPLED: sampled}

    def _find(self, now_s: float) -> None:
        try:
            names = node_names(self._segment)
        except OSError:  # deleted, or out of reach for now
            return
        for name in names:
            if name not in self._nodes:
                self._nodes[name] = _Node(node_path(self._segment, name), now_s)

    def _read(self, node: _Node, now_s: float) -> list[Sample]:
        try:
            samples = node.reader.read()
        except OSError:
            return []
        if samples:
            node.heard_s = now_s
        return samples

    def _row(self, name: str, node: _Node, sample: Sample) -> dict[str, float]:
        row: dict[str, float] = {age_metric(name): round(max(0.0, self._wall() - sample.time_s), 3)}
        keys = node.keys
        for figure, value in sample.host.items():
            key = keys.get((-1, figure))
            if key is None:
                key = keys[-1, figure] = host_metric(name, figure)
            row[key] = value
        for index, gpu in enumerate(sample.gpus):
            for figure, value in gpu.items():
                key = keys.get((index, figure))
                if key is None:
                    key = keys[index, figure] = gpu_metric(name, index, figure)
                row[key] = value
        return row

    def _count_missing(self, now_s: float) -> int:
        silent = [
            name
            for name, node in self._nodes.items()
            if now_s - node.heard_s > _MISSED * self._interval_s and not node.reader.ended
        ]
        unseen = max(0, (self._expected or 0) - len(self._nodes))
        if new := [name for name in silent if name not in self._told_missing]:
            self._told_missing.update(new)
            named = ", ".join(new[:_MOST_NAMED]) + (", ..." if len(new) > _MOST_NAMED else "")
            since = f"{_MISSED * self._interval_s:g} s"
            self._notices.warn(f"nodes:{named}", f"nodes: nothing of {named} for {since}")
        if unseen and now_s - self._began_s > max(_MISSED * self._interval_s, _START_S):
            self._notices.warn(
                "nodes:unseen",
                f"nodes: of {self._expected} nodes {unseen} have told nothing so far "
                f"({MISSING} in the run)",
            )
        return len(silent) + unseen
