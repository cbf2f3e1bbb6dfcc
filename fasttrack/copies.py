"""What a copy of a tracker is: in its own process the tracker itself, in another an inert one.

A run has one journal, one worker, one delivery: there is nothing to copy. But what holds a tracker
(a model, a callback, a dataset) is copied, saved, and sent to DataLoader workers.
"""

from __future__ import annotations

import os
from typing import TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")

_here: WeakValueDictionary[str, object] = WeakValueDictionary()


def register(tracker: object) -> str:
    """Return a token by which `restore` finds `tracker` in this process, and in no other."""
    token = os.urandom(16).hex()  # a process id may come again, in a container it always does
    _here[token] = tracker
    return token


def restore(kind: type[T], token: str) -> T:
    """Return the tracker of `token`, or an empty one of `kind` where none is in this process."""
    found = _here.get(token)
    if isinstance(found, kind):
        return found
    made = kind.__new__(kind)
    _here[token] = made  # unpickled again, it is the same
    return made
