"""For programs whose end is not what a test looks at: where this directory is in PYTHONPATH.

A process that has imported torch looks for garbage while it does, and again in all of torch when
it ends: a third of the CPU time that a rank takes which trains for some seconds.
"""

from __future__ import annotations

import atexit
import gc

gc.set_threshold(100_000, 20, 20)
atexit.register(gc.freeze)  # the first to be registered is the last to be called
