"""What is no number, under the names and with the arguments of W&B's client.

What is logged goes to the tracker's `log_media`. What is not kept of it is said once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fasttrack.media import types
from fasttrack.wandb.said import say_once
from fasttrack.wandb.unknown import Inert, careful, named


class Unkept(Inert):
    """What W&B shows and we do not; where it is logged, its metric is left out and counted."""


class _AsNamed:
    """Whatever else scripts ask of it is said once, and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return named(f"wandb.{type(self).__name__}.{name}", name)


class Image(_AsNamed, types.Image):
    """A picture."""

    def __init__(
        self, data_or_path: Any, mode: str | None = None, caption: Any = None, **further: Any
    ) -> None:
        """Hold an array, tensor, PIL image, path, or another of these.

        Args:
            data_or_path: as in `fasttrack.Image`.
            mode: accepted; the number of channels tells.
            caption: text beside it.
            further: `masks`, `boxes` and `classes` are left out; the others are accepted.
        """
        if isinstance(data_or_path, types.Image):
            caption = data_or_path.caption if caption is None else caption
            data_or_path = data_or_path.data
        super().__init__(data_or_path, None if caption is None else str(caption))
        if lost := [name for name in ("masks", "boxes", "classes") if further.get(name)]:
            say_once("image_layers", f"Image: {', '.join(lost)} are not kept; the picture is")


class Histogram(_AsNamed, types.Histogram):
    """A distribution."""


class Table(_AsNamed, types.Table):
    """Rows and columns."""

    def __init__(
        self,
        columns: Any = None,
        data: Any = None,
        rows: Any = None,
        dataframe: Any = None,
        **further: Any,
    ) -> None:
        """Hold rows.

        Args:
            columns: their names.
            data: rows, an array, or a data frame.
            rows: the same.
            dataframe: a data frame.
            further: accepted.
        """
        given = next((one for one in (dataframe, data, rows) if one is not None), None)
        if given is None and columns is None:
            columns = ["Input", "Output", "Expected"]
        super().__init__(columns, given)

    def add_row(self, *row: Any) -> None:
        """Add a row."""
        self.add_data(*row)

    @careful
    def add_column(self, name: str, data: Any) -> None:
        """Add a column, one cell for each row."""
        cells = list(data)
        rows = self.data or [[] for _ in cells]
        self.columns.append(str(name))
        self.data = [[*row, cell] for row, cell in zip(rows, cells, strict=True)]

    @careful
    def get_column(self, name: str) -> list[Any]:
        """Return a column's cells."""
        place = self.columns.index(name)
        return [row[place] for row in self.data]


class Audio(_AsNamed, types.Audio):
    """Sound."""

    def __init__(
        self, data_or_path: Any, sample_rate: int | None = None, caption: Any = None
    ) -> None:
        """Hold an array and its sample rate, or a path."""
        super().__init__(data_or_path, sample_rate, None if caption is None else str(caption))


class Html(_AsNamed, types.Html):
    """A page."""

    def __init__(self, data: Any, inject: bool = True, data_is_not_path: bool = False) -> None:
        """Hold HTML: text, the path of an .html file, or a file that is open.

        Args:
            data: which.
            inject: accepted; the page is left as it is.
            data_is_not_path: whether `data` is text, whatever it looks like.
        """
        if hasattr(data, "read"):
            data = data.read()
        elif isinstance(data, str) and data.endswith(".html") and not data_is_not_path:
            data = Path(data) if Path(data).is_file() else data
        super().__init__(data)


class Video(_AsNamed, types.Video):
    """Moving pictures; of a file only."""

    def __init__(self, data_or_path: Any, caption: Any = None, **further: Any) -> None:
        """Hold a path.

        Args:
            data_or_path: the path; what is none is refused where it is logged.
            caption: text beside it.
            further: accepted.
        """
        super().__init__(data_or_path, None if caption is None else str(caption))


class Object3D(Unkept):
    """A body."""


class Molecule(Unkept):
    """A molecule."""


class Plotly(Unkept):
    """A chart."""


class Graph(Unkept):
    """A model's graph."""


def is_media(value: Any) -> bool:
    """Return whether a logged value is kept as media."""
    if isinstance(value, (list, tuple)):
        return bool(value) and isinstance(value[0], types.Media)
    return isinstance(value, types.Media) or type(value).__module__ == "matplotlib.figure"
