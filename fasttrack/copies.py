"""What a copy of a tracker is: in its own process the tracker itself, in another an inert one.

A run has one journal, one worker, one delivery: there is nothing to copy. But what holds a tracker
(a model, a callback, a dataset) is copied, saved, and sent to DataLoader workers.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from fasttrack.preemption.stopping import Stopping

if TYPE_CHECKING:
    from typing_extensions import Self

    from fasttrack.options import Options

T = TypeVar("T")

_here: WeakValueDictionary[str, object] = WeakValueDictionary()


def restore(kind: type[T], token: str) -> T:
    """Return the tracker of `token`, or an empty one of `kind` where none is in this process."""
    found = _here.get(token)
    if isinstance(found, kind):
        return found
    made = kind.__new__(kind)
    _here[token] = made  # unpickled again, it is the same
    return made


class OneOfAKind:
    """What of a tracker copies and pickles are."""

    # A tracker's own.
    _run_id: str | None
    _options: Options
    _engine: Any
    _other: Any = None
    """What takes part on a rank that does not record, where all ranks do."""
    _logger: Any
    _shared_id: Any
    _nodes: Any

    def _hand_calls_to(self, logger: Any) -> None:
        """Have the logging calls go to `logger`."""
        raise NotImplementedError

    def get_run_name(self) -> str | None:
        """Return the run's name."""
        raise NotImplementedError

    def is_offline(self) -> bool:
        """Return whether rows go to a local stand-in."""
        raise NotImplementedError

    def _register(self) -> None:
        """Be found by `restore` in this process, and in no other."""
        # A process id may come again, in a container it always does.
        self._token = os.urandom(16).hex()
        _here[self._token] = self

    def _stand_by(self) -> None:
        """Turn inert: this process is not the one that records."""
        from fasttrack.hotpath.bystander import Bystander

        self._engine = self._other = None
        self._hand_calls_to(Bystander(self._run_id))

    def __copy__(self) -> Self:
        """Return the tracker itself."""
        return self

    def __deepcopy__(self, memo: object) -> Self:
        """Return the tracker itself."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Be pickled as what `restore` finds: this tracker here, an inert one elsewhere."""
        return restore, (type(self), self._token), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process may know. Never waits."""
        run_id = self._run_id
        if run_id is None and self._shared_id is not None:
            run_id = self._shared_id.known
        stopping = Stopping(self._options)
        return {
            **vars(self),
            "_name": self.get_run_name(),
            "_run_id": run_id,
            "_offline": self.is_offline(),
            "_engine": None,
            "_other": None,
            "_shared_id": None,
            "_nodes": None,
            "_reducer": None,
            "_stopping": stopping,
            "_calls": stopping.calls,
            "_records": self._logger is not None,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become inert, unless this is the tracker that was pickled."""
        if "_token" in vars(self):
            return
        records = state.pop("_records")
        vars(self).update(state)
        self._hand_calls_to(None)
        if records:
            self._stand_by()
