"""What is no number: pictures, tables, sound. It is accepted, and not kept yet.

Where it is logged, its metric is left out, counted, and named in one warning.
"""

from __future__ import annotations

from fasttrack.wandb.unknown import Inert


class Media(Inert):
    """Anything that W&B shows as something else than a number."""


class Table(Media):
    """Rows and columns."""


class Image(Media):
    """A picture."""


class Video(Media):
    """Moving pictures."""


class Audio(Media):
    """Sound."""


class Html(Media):
    """A page."""


class Histogram(Media):
    """A distribution."""


class Object3D(Media):
    """A body."""


class Molecule(Media):
    """A molecule."""


class Plotly(Media):
    """A chart."""


class Graph(Media):
    """A model's graph."""
