"""What `log_media` takes: names and shapes are those of W&B's client.

A value only holds what it is given; it is looked at, and copied, by `log_media`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MOST_BINS = 512
"""Of a histogram; W&B takes no more."""


class Media:
    """Anything that is no number."""

    caption: str | None = None


class Image(Media):
    """A picture, or several that are logged together."""

    def __init__(self, data: Any, caption: str | None = None) -> None:
        """Hold a picture.

        Args:
            data: an array or tensor of shape (height, width), (height, width, channels) or
                (channels, height, width), with 1 (grey), 3 (RGB) or 4 channels (RGBA); where both
                may be meant, a tensor's channels come first and an array's last. One more
                dimension in front: as many pictures. Whole numbers are 0 to 255, floats 0 to 1,
                and what is outside is cut off. Or a PIL image; a figure of matplotlib's, which is
                drawn by `log_media`; or the path of a PNG, JPEG, GIF, WebP or BMP file, which is
                read by it.
            caption: text beside it.
        """
        self.data = data
        self.caption = caption


class Histogram(Media):
    """How the elements of an array are distributed."""

    def __init__(
        self,
        sequence: Any = None,
        np_histogram: Any = None,
        num_bins: int = 64,
    ) -> None:
        """Hold an array, or what was counted already.

        Args:
            sequence: an array, tensor or sequence of numbers of any shape; what is not finite is
                left out. They are counted off the training thread.
            np_histogram: what `np.histogram` returns instead: counts, and edges, one more.
            num_bins: bins of equal width from the least to the greatest number; at most 512.
        """
        self.sequence = sequence
        self.np_histogram = np_histogram
        self.num_bins = num_bins


class Table(Media):
    """Rows and columns of plain values."""

    def __init__(
        self, columns: Sequence[str] | None = None, data: Any = None, caption: str | None = None
    ) -> None:
        """Hold rows.

        Args:
            columns: their names; None: those of the data frame, else numbers.
            data: rows, each a sequence as long as `columns`; a data frame; or an array of two
                dimensions. Cells are text, numbers, booleans and None; what is not finite is left
                empty, and anything else is written as text.
            caption: text beside it.
        """
        self.data: list[list[Any]] = []
        self.columns: list[str] = []
        self.fault: str | None = None
        """Why it cannot be logged, if that is known already."""
        self.caption = caption
        if not getattr(data, "is_cpu", True):
            self.fault = "a table of a tensor on a device would wait for it; pass its copy"
            return
        try:
            frame_columns = getattr(data, "columns", None)
            if frame_columns is not None and hasattr(data, "values"):  # a data frame
                columns = list(frame_columns) if columns is None else columns
                data = data.values
            given = () if data is None else data.tolist() if hasattr(data, "tolist") else data
            self.data = [list(row) for row in given]
            width = len(self.data[0]) if self.data else 0
            self.columns = [str(name) for name in (range(width) if columns is None else columns)]
        except TypeError as error:
            self.fault = f"a table's data are rows, each of them cells ({error})"

    def add_data(self, *row: Any) -> None:
        """Add a row."""
        self.data.append(list(row))


class Audio(Media):
    """Sound."""

    def __init__(
        self, data: Any, sample_rate: int | None = None, caption: str | None = None
    ) -> None:
        """Hold sound.

        Args:
            data: an array or tensor of shape (samples,), (samples, channels) or, with at most 8
                channels, (channels, samples): floats from -1 to 1, what is outside is cut off, or
                16-bit integers. Or the path of a WAV, MP3, FLAC or Ogg file, which is read by
                `log_media`.
            sample_rate: of an array, samples a second.
            caption: text beside it.
        """
        self.data = data
        self.sample_rate = sample_rate
        self.caption = caption


class Html(Media):
    """A page."""

    def __init__(self, data: str | Path) -> None:
        """Hold HTML as text, or the path (a `pathlib.Path`) of a file."""
        self.data = data


class Text(Media):
    """Text; what looks like HTML in it is text, too."""

    def __init__(self, data: str | Path) -> None:
        """Hold text, or the path (a `pathlib.Path`) of a file."""
        self.data = data


class Video(Media):
    """Moving pictures."""

    def __init__(self, data: str | Path, caption: str | None = None) -> None:
        """Hold the path of an MP4, WebM or GIF file, which is read by `log_media`.

        Frames are not encoded here: that takes seconds, and programs of its own.
        """
        self.data = data
        self.caption = caption
