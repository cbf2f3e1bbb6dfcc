"""One node's hardware, as lines of its file."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

from fasttrack.nodes.files import FORMAT_VERSION, Sample
from fasttrack.nodes.gpus import NodeGpus
from fasttrack.nodes.host import HostSampler

if TYPE_CHECKING:
    from collections.abc import Callable


class NodeSampler:
    """Sample this node.

    Threads: one at a time.
    """

    def __init__(
        self,
        node: str,
        host: HostSampler | None = None,
        gpus: NodeGpus | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Start NVML, if it is there. Blocks for the driver.

        Args:
            node: its name.
            host: None: this machine's.
            gpus: None: this machine's.
            clock: unix time in seconds.
        """
        self.node = node
        self._host = HostSampler() if host is None else host
        self._gpus = NodeGpus() if gpus is None else gpus
        self._clock = clock

    def first_line(self, interval_s: float) -> dict[str, Any]:
        """Return what does not change."""
        facts: dict[str, Any] = {
            "kind": "node",
            "version": FORMAT_VERSION,
            "node": self.node,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time": self._clock(),
            "interval_s": interval_s,
            **self._host.facts(),
            "gpus": self._gpus.facts(),
        }
        if self._gpus.reason is not None:
            facts["no_gpus"] = self._gpus.reason
        return facts

    def sample(self) -> Sample:
        """Return how the node fares now. Blocks for the driver, some 50 ms for each GPU."""
        return Sample(self._clock(), self._host.sample(), self._gpus.sample())

    def close(self) -> None:
        """Give NVML back."""
        self._gpus.close()
