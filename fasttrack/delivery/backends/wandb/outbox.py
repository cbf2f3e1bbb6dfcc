"""Post many rows to wandb-core in one go.

`run.log` hands each row to the client's own asyncio thread and waits until the socket has it: two
thread switches and two system calls a row, and a wake-up of wandb-core besides. They were most of
the 0.56 ms of CPU that a row cost both together; posted together, it costs 0.2. The outbox collects
messages and hands them over in order. A row of finite numbers, as nearly all are, it writes itself;
with any other, `run.log` does all but the last step.

It leans on names that wandb keeps to itself (seen with 0.31). Where one is missing there is no
outbox, and rows go one by one.
"""

from __future__ import annotations

import math
import time
from typing import Any

_MOST_ROWS = 128  # that are held back at a time
_NEEDED = ("_publish_partial_history", "_make_request", "_assign", "_asyncer", "_client")


class Outbox:
    """What one run has logged and wandb-core has not got yet.

    Threads: one at a time, the one that logs.
    """

    def __init__(self, interface: Any, request: type[Any], encoding: str) -> None:
        """Stand between `run.log` and wandb-core.

        Args:
            interface: the run's interface to wandb-core.
            request: the class `wandb.proto.wandb_server_pb2.ServerRequest`.
            encoding: the setting `x_history_value_encoding`; in another than "json" the outbox
                writes no row itself.
        """
        self._interface = interface
        self._request = request
        self._requests: list[Any] = []
        self.works = all(hasattr(interface, name) for name in _NEEDED)
        self._writes = self.works and encoding == "json"
        if self.works:
            interface._publish_partial_history = self._collect

    def take(self, values: dict[str, float | int], step: int) -> bool:
        """Take a row in; return False where it is one for `run.log`."""
        if not self._writes or not all(map(math.isfinite, values.values())):
            return False
        request = self._request()
        record = request.record_publish
        history = record.request.partial_history
        history.step.num = step
        for name, value in values.items():
            history.item.add(key=name, value_json=repr(value))
        history.item.add(key="_timestamp", value_json=repr(time.time()))
        self._interface._assign(record)
        self._add(request)
        return True

    def _collect(self, history: Any) -> None:
        record = self._interface._make_request(partial_history=history)
        self._interface._assign(record)
        request = self._request()
        request.record_publish.CopyFrom(record)
        self._add(request)

    def _add(self, request: Any) -> None:
        self._requests.append(request)
        if len(self._requests) >= _MOST_ROWS:
            self.post()

    def post(self) -> None:
        """Hand over what was collected. Blocks while wandb-core takes no more.

        Raises:
            Exception: whatever the client's socket raises once wandb-core has died.
        """
        requests, self._requests = self._requests, []
        if requests:
            self._interface._asyncer.run(lambda: self._send(requests))

    async def _send(self, requests: list[Any]) -> None:
        for request in requests:
            await self._interface._client.publish(request)
