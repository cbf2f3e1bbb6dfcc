"""What a run can hold beside numbers: pictures, distributions, tables, sound, pages, text."""

from __future__ import annotations

from fasttrack.media.types import Audio, Histogram, Html, Image, Media, Table, Text, Video

__all__ = ["Audio", "Histogram", "Html", "Image", "Media", "Table", "Text", "Video"]
