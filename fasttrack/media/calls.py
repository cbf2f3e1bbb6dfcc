"""The tracker's call for what is no number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fasttrack.engine import Engine
    from fasttrack.quick_calls import Logger


class MediaCalls:
    """What a tracker has for media.

    Threads: any.
    """

    # A tracker's own.
    _engine: Engine | None
    _logger: Logger | None

    def log_media(self, name: str, value: Any, step: int | None = None) -> None:
        """Log a picture, histogram, table, sound, page or text.

        Blocks while the value is copied (0.1 ms for a megabyte in the host's memory; on a device
        the copy is made there, and nobody waits for it), or while its file is read, if it is one.
        Encoding and delivery are done elsewhere. Nothing raises: what cannot be logged is counted,
        and said once. So is what is dropped because `Options.media_limit_mb` wait for the disk.

        Args:
            name: what it is logged as, such as "val/samples"; no metric of the same step may have
                the same name.
            value: an `Image`, `Histogram`, `Table`, `Audio`, `Html`, `Text` or `Video`; or several
                `Image`s or `Audio`s in a list. Without one of these, an array of two or more
                dimensions, a PIL image and a figure of matplotlib's are an `Image`, an array of one
                dimension is a `Histogram`, a string is a `Text`, and a `pathlib.Path` is what its
                name ends with.
            step: the training step it belongs to. None: that of the last call that had one, as
                with `log_metrics`.
        """
        if self._engine is not None:
            self._engine.log_media(name, value, step)
        elif self._logger is not None:
            self._logger.late_call()
