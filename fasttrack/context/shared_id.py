"""One run id on all ranks, through torch.distributed's key-value store and without a collective."""

from __future__ import annotations

import itertools
import os
import time

from fasttrack.context.group_store import group_store, when_group_is_known
from fasttrack.context.stores import default_store
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

        Sends at most one message, to the store; what goes wrong is said. Where the group's first
        rank is another, which has not answered yet, that is done on a thread.

        Args:
            publish: the run's id, on the rank that records; None on the others.
        """
        self._notices = Notices()
        self._key = f"run_id/{next(_trackers)}"
        self._run_id: str | None = None
        self._waited = False
        self._pid = os.getpid()
        self._meets = default_store() is not None
        if not self._meets:
            self._notices.warn(
                "share_run_id",
                "share_run_id: torch.distributed is not initialised, so the run's id stays with "
                "the rank that records; call init_process_group first",
            )
        elif publish is None:
            group_store()  # asks for it: it is there when the id is asked for
        else:
            when_group_is_known(lambda: self._publish(publish))

    @property
    def known(self) -> str | None:
        """The id, if `get` has learned it. Asks nobody."""
        return self._run_id

    def get(self) -> str | None:
        """Return the id; None where it is not known, which is said once with the reason.

        Waits, up to `WAIT_S` and once only, for the recording rank; later calls just look. A forked
        child asks nobody: the connection is its parent's.
        """
        if self._run_id is not None or not self._meets or os.getpid() != self._pid:
            return self._run_id
        deadline_s = time.monotonic() + (0 if self._waited else WAIT_S)
        try:
            # Not store.wait(): the store's client serves one caller at a time, and a process
            # group may need it meanwhile.
            while (store := group_store()) is None or not store.check([self._key]):
                if time.monotonic() >= deadline_s:
                    self._waited = True
                    self._say_why(f"the recording rank told none within {WAIT_S:g} s")
                    return None
                time.sleep(_POLL_S)
            self._run_id = store.get(self._key).decode()
        except RuntimeError as error:  # the store's process is gone
            self._waited = True
            self._say_why(error)
        return self._run_id

    def _publish(self, run_id: str) -> None:
        try:
            if (store := group_store()) is not None:
                store.set(self._key, run_id)
        except RuntimeError as error:  # the store's process is gone
            self._say_why(error)

    def _say_why(self, why: object) -> None:
        self._notices.warn("share_run_id", f"share_run_id: the run's id is not known here: {why}")
