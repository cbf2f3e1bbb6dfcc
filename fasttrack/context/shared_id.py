"""One run id on all ranks, through torch.distributed's key-value store and without a collective."""

from __future__ import annotations

import itertools
import os
import sys
import time
from typing import Any

from fasttrack.notices import Notices

WAIT_S = 30.0
"""How long a rank waits, once, for the recording rank to have made its tracker."""

_POLL_S = 0.05
_trackers = itertools.count()  # of this process, in the order of construction: alike on all ranks


class SharedRunId:
    """The id of the run that the tracker of the recording rank, made in the same order, opens.

    Threads: made on the one that makes the tracker; `get` on any.
    """

    def __init__(self, publish: str | None = None) -> None:
        """Agree on a key with the other ranks; on the recording one, tell them the id.

        Sends at most one message, to the store; what goes wrong is said.

        Args:
            publish: the run's id, on the rank that records; None on the others.
        """
        self._notices = Notices()
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._key = f"fasttrack/run_id/{restart}/{next(_trackers)}"
        self._run_id: str | None = None
        self._waited = False
        self._pid = os.getpid()
        self._store = default_store()
        if self._store is None:
            self._notices.warn(
                "share_run_id",
                "share_run_id: torch.distributed is not initialised, so the run's id stays with "
                "the rank that records; call init_process_group first",
            )
        elif publish is not None:
            try:
                self._store.set(self._key, publish)
            except RuntimeError as error:  # the store's process is gone
                self._say_why(error)

    @property
    def known(self) -> str | None:
        """The id, if `get` has learned it. Asks nobody."""
        return self._run_id

    def get(self) -> str | None:
        """Return the id; None where it is not known, which is said once with the reason.

        Waits, up to `WAIT_S` and once only, for the recording rank; later calls just look. A forked
        child asks nobody: the connection is its parent's.
        """
        if self._run_id is not None or self._store is None or os.getpid() != self._pid:
            return self._run_id
        deadline_s = time.monotonic() + (0 if self._waited else WAIT_S)
        try:
            # Not store.wait(): the store's client serves one caller at a time, and a process
            # group may need it meanwhile.
            while not self._store.check([self._key]):
                if time.monotonic() >= deadline_s:
                    self._waited = True
                    self._say_why(f"the recording rank told none within {WAIT_S:g} s")
                    return None
                time.sleep(_POLL_S)
            self._run_id = self._store.get(self._key).decode()
        except RuntimeError as error:  # the store's process is gone
            self._waited = True
            self._say_why(error)
        return self._run_id

    def _say_why(self, why: object) -> None:
        self._notices.warn("share_run_id", f"share_run_id: the run's id is not known here: {why}")


def default_store() -> Any:
    """Return the store of torch.distributed's ranks; None where that is not initialised."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    try:
        return distributed.distributed_c10d._get_default_store()
    except ValueError:  # another thread has destroyed the group just now
        return None
