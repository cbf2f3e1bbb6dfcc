"""Turn what is logged as media into contents that stay as they are: bytes, or a copy of an array.

Nothing here waits for a device: of what lives on one, a copy is made there.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson
import torch

from fasttrack.errors import ValueRefusedError
from fasttrack.hotpath.advice import describe
from fasttrack.hotpath.capture import plain_tensor
from fasttrack.media.types import (
    MOST_BINS,
    Audio,
    Histogram,
    Html,
    Image,
    Media,
    Table,
    Text,
    Video,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_NUMPY_FLOATS = (torch.float16, torch.float32, torch.float64)
_CHANNELS = (1, 3, 4)
_MOST_CHANNELS = 8  # of sound, in an array that has them first
_MOST_IN_A_LIST = 100  # W&B shows no more
_SHAPES = (
    "a picture has the shape (height, width), (height, width, channels) or (channels, height, "
    "width), with 1, 3 or 4 channels, and several have one more dimension in front"
)
_SIGNATURES = {  # how a file begins, after how many bytes, and what it is called
    "png": (0, b"\x89PNG\r\n\x1a\n"),
    "jpg": (0, b"\xff\xd8\xff"),
    "gif": (0, b"GIF8"),
    "webp": (8, b"WEBP"),
    "bmp": (0, b"BM"),
    "wav": (8, b"WAVE"),
    "flac": (0, b"fLaC"),
    "ogg": (0, b"OggS"),
    "mp4": (4, b"ftyp"),
    "webm": (0, b"\x1a\x45\xdf\xa3"),
}
_TELLING_BYTES = 16
_PICTURES = ("png", "jpg", "gif", "webp", "bmp")
_SOUNDS = ("wav", "flac", "ogg", "mp3")
_VIDEOS = ("mp4", "webm", "gif")
_TYPES_BY_SUFFIX: dict[str, Callable[[Path], Media]] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp"), Image),
    **dict.fromkeys((".wav", ".flac", ".ogg", ".mp3"), Audio),
    **dict.fromkeys((".mp4", ".webm"), Video),
    **dict.fromkeys((".html", ".htm"), Html),
    **dict.fromkeys((".txt", ".md"), Text),
}


class Source(NamedTuple):
    """Something that is to be copied: what, how large it is, and what of it to tell."""

    size_bytes: int
    copy: Callable[[], Any]
    """Returns bytes, or an array or tensor of our own."""
    extension: str
    """Of the file that it becomes, in the end."""


class Sources(NamedTuple):
    """One logged value, before it is copied."""

    type: str
    parts: tuple[Source, ...]
    about: dict[str, Any]


def read(value: Any) -> Sources:
    """Return what is to be copied of a value. Reads files.

    Raises:
        ValueRefusedError: it is no media, or wrong in itself; says what to pass instead.
        OSError: its file cannot be read.
    """
    kind = type(value)
    if (kind is np.ndarray or kind is torch.Tensor) and value.ndim > 1:  # the usual case, in short
        source, many = _pixels(_array(value))
        return Sources("image", (source,), {"many": True} if many else {})
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], Media):
        return _several(value)
    media = _as_media(value)
    if isinstance(media, Image):
        source, many = _picture(media.data)
        return _told("image", source, many=many, captions=[media.caption])
    if isinstance(media, Histogram):
        return _distribution(media)
    if isinstance(media, Table):
        return _told("table", _table(media), captions=[media.caption])
    if isinstance(media, Audio):
        return _told("audio", _sound(media), captions=[media.caption], rates=[media.sample_rate])
    if isinstance(media, Html):
        return _told("html", _text(media.data, "html"))
    if isinstance(media, Text):
        return _told("text", _text(media.data, "txt"))
    if isinstance(media, Video):
        source = _file(media.data, _VIDEOS, "an MP4, WebM or GIF file")
        return _told("video", source, captions=[media.caption])
    raise ValueRefusedError(f"a {describe(value)} cannot be logged as media")


def _told(
    kind: str,
    *parts: Source,
    captions: Sequence[str | None] = (),
    rates: Sequence[Any] = (),
    many: bool = False,
) -> Sources:
    about: dict[str, Any] = {}
    if any(caption is not None for caption in captions):
        about["captions"] = [None if one is None else _written(str(one)) for one in captions]
    if many:
        about["many"] = True
    if rates:
        about["sample_rates"] = [rate or 0 for rate in rates]
    return Sources(kind, parts, about)


def _written(text: str) -> str:
    """Return a text as UTF-8 has it."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _several(values: Sequence[Any]) -> Sources:
    kind = Image if isinstance(values[0], Image) else Audio
    if not all(isinstance(value, kind) for value in values):
        raise ValueRefusedError("a list holds pictures only, or sound only; log the others alone")
    if len(values) > _MOST_IN_A_LIST:
        raise ValueRefusedError(f"a list holds at most {_MOST_IN_A_LIST}; log fewer")
    captions = [value.caption for value in values]
    if kind is Audio:
        rates = [value.sample_rate for value in values]
        return _told("audio", *map(_sound, values), captions=captions, rates=rates, many=True)
    pictures = [_picture(value.data) for value in values]
    if any(many for _, many in pictures):
        raise ValueRefusedError("each picture of a list is one; log a batch alone")
    return _told("image", *(source for source, _ in pictures), captions=captions, many=True)


def _as_media(value: Any) -> Any:
    if isinstance(value, Media):
        return value
    if isinstance(value, str):
        return Text(value)
    if isinstance(value, Path):
        kind = _TYPES_BY_SUFFIX.get(value.suffix.lower())
        if kind is None:
            raise ValueRefusedError(f"what a file of type {value.suffix!r} holds is not known")
        return kind(value)
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return Histogram(value) if value.ndim == 1 else Image(value)
    if _is_pil(value) or _is_figure(value):
        return Image(value)
    return value


def _is_pil(value: Any) -> bool:
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def _is_figure(value: Any) -> bool:
    module = sys.modules.get("matplotlib.figure")
    return module is not None and isinstance(value, module.Figure)


# --- pictures ---------------------------------------------------------------------------------


def _picture(data: Any) -> tuple[Source, bool]:
    """Return a picture, or several as one array (number, height, width, channels)."""
    if type(data) is np.ndarray or type(data) is torch.Tensor:
        return _pixels(_array(data))
    if isinstance(data, (str, Path)):
        return _file(data, _PICTURES, "a PNG, JPEG, GIF, WebP or BMP file"), False
    if _is_pil(data):
        mode = data.mode if data.mode in ("L", "RGB", "RGBA") else None
        channels = 3 if mode is None else len(mode)
        shape = (1, data.height, data.width, channels)

        def pixels() -> Any:
            taken = data if mode else data.convert("RGB")
            return np.frombuffer(taken.tobytes(), np.uint8).reshape(shape)

        return Source(data.width * data.height * channels, pixels, "png"), False
    if _is_figure(data):
        return _known(_draw(data), "png"), False
    return _pixels(_array(data))


def _pixels(array: Any) -> tuple[Source, bool]:
    shape = tuple(array.shape)
    if not 2 <= len(shape) <= 4 or 0 in shape:
        raise ValueRefusedError(f"an array of shape {shape} is no picture: {_SHAPES}")
    many = len(shape) == 4
    first = False
    if len(shape) > 2:
        first, last = shape[-3] in _CHANNELS, shape[-1] in _CHANNELS
        if not (first or last):
            raise ValueRefusedError(f"an array of shape {shape} is no picture: {_SHAPES}")
        first = first and (isinstance(array, torch.Tensor) or not last)
    if many and shape[0] > _MOST_IN_A_LIST:
        raise ValueRefusedError(f"a batch holds at most {_MOST_IN_A_LIST} pictures; log fewer")

    def copied() -> Any:
        kept = _copy(array)
        kept = kept[..., None] if len(shape) == 2 else kept
        kept = kept if many else kept[None]
        if not first:
            return kept
        order = (0, 2, 3, 1)
        return kept.permute(order) if isinstance(kept, torch.Tensor) else kept.transpose(order)

    return Source(_size(array), copied, "png"), many


def _draw(figure: Any) -> bytes:
    """Return a figure as a PNG file of the size that it has."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=figure.dpi, facecolor=figure.get_facecolor())
    return file.getvalue()


def _array(data: Any) -> Any:
    """Return an array or tensor of real numbers as it is, and a sequence of them as an array."""
    if isinstance(data, torch.Tensor):
        tensor = plain_tensor(data) if type(data) is not torch.Tensor else data
        if tensor.is_meta:
            raise ValueRefusedError("a tensor on the meta device has no value")
        if tensor.layout is not torch.strided or tensor.is_complex() or tensor.is_quantized:
            raise ValueRefusedError("pass a dense tensor of real numbers, such as x.to_dense()")
        if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
            raise ValueRefusedError("nothing can be logged while a CUDA graph is being captured")
        return tensor
    if not isinstance(data, np.ndarray):
        if not isinstance(data, Sequence) or isinstance(data, (str, bytes)):
            raise ValueRefusedError(f"a {describe(data)} is no array; pass an array or a tensor")
        try:
            data = np.asarray(data)
        except ValueError as error:
            raise ValueRefusedError(f"no array can be made of it ({error})") from error
    if data.dtype.kind not in "biuf":
        raise ValueRefusedError(f"an array of dtype {data.dtype} does not hold real numbers")
    return data


def _size(array: Any) -> int:
    if isinstance(array, torch.Tensor):
        return array.numel() * array.element_size()
    return int(array.nbytes)


def _copy(array: Any) -> Any:
    """Return a copy: of what is in the host's memory an array, else a tensor where it is."""
    if not isinstance(array, torch.Tensor):
        return array.copy() if type(array) is np.ndarray else np.array(array)
    tensor = array.detach()
    if not tensor.is_cpu:
        return tensor.clone()
    if tensor.is_floating_point() and tensor.dtype not in _NUMPY_FLOATS:
        return tensor.float().numpy()
    return np.array(tensor.resolve_neg().numpy(), order="C")


# --- what else there is -----------------------------------------------------------------------


def _distribution(media: Histogram) -> Sources:
    if media.np_histogram is not None:
        try:
            given = tuple(media.np_histogram)
            if not all(getattr(numbers, "is_cpu", True) for numbers in given):
                raise ValueRefusedError("counts on a device would be waited for; pass the tensor")
            counts, bins = ([float(n) for n in numbers] for numbers in given)
        except (TypeError, ValueError) as error:
            raise ValueRefusedError(
                "np_histogram must be what np.histogram returns: counts, and edges"
            ) from error
        if not np.isfinite([*counts, *bins]).all():
            raise ValueRefusedError("a histogram's counts and edges must be finite")
        if len(bins) != len(counts) + 1 or not 0 < len(counts) <= MOST_BINS:
            raise ValueRefusedError(
                f"{len(counts)} counts and {len(bins)} edges are no histogram: there is one edge "
                f"more than counts, and at most {MOST_BINS} of these"
            )
        return Sources("histogram", (), {"counts": counts, "bins": bins})
    if type(media.num_bins) is not int or not 1 <= media.num_bins <= MOST_BINS:
        raise ValueRefusedError(f"num_bins must be an integer from 1 to {MOST_BINS}")
    array = _array(media.sequence)
    if not _size(array):
        raise ValueRefusedError("an array without elements has no distribution")
    source = Source(_size(array), lambda: _copy(array), "")
    return Sources("histogram", (source,), {"num_bins": media.num_bins})


def _sound(media: Audio) -> Source:
    if isinstance(media.data, (str, Path)):
        return _file(media.data, _SOUNDS, "a WAV, MP3, FLAC or Ogg file")
    rate = media.sample_rate
    if type(rate) is not int or not 0 < rate < 2**31:
        raise ValueRefusedError("sound of an array needs its sample_rate, an integer")
    array = _array(media.data)
    shape = tuple(array.shape)
    name = str(array.dtype).removeprefix("torch.")
    if not (name.startswith(("float", "bfloat")) or name == "int16"):
        raise ValueRefusedError(f"sound is floats from -1 to 1 or 16-bit integers, not {name}")
    if not 1 <= len(shape) <= 2 or 0 in shape:
        raise ValueRefusedError(f"an array of shape {shape} is no sound: (samples, channels) is")
    first = len(shape) == 2 and shape[0] <= _MOST_CHANNELS < shape[1]
    if len(shape) == 2 and not first and shape[1] > _MOST_CHANNELS:
        raise ValueRefusedError(f"sound has at most {_MOST_CHANNELS} channels, not {shape[1]}")

    def copied() -> Any:
        kept = _copy(array)
        return kept[:, None] if len(shape) == 1 else kept.T if first else kept

    return Source(_size(array), copied, "wav")


def _table(media: Table) -> Source:
    if media.fault is not None:
        raise ValueRefusedError(media.fault)
    columns, width = [_written(name) for name in media.columns], len(media.columns)
    for number, row in enumerate(media.data):
        if len(row) != width:
            raise ValueRefusedError(
                f"row {number} of the table has {len(row)} cells, for {width} columns"
            )
    told = {"columns": columns, "data": [[_cell(cell) for cell in row] for row in media.data]}
    return _known(orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY), "json")


def _cell(value: Any) -> Any:
    kind = type(value)
    if kind is str:
        return _written(value)
    if kind in (float, bool, type(None)) or (kind is int and -(2**63) <= value < 2**63):
        return value
    if isinstance(value, torch.Tensor):
        if value.numel() != 1 or not value.is_cpu:
            shape = tuple(value.shape)
            return f"a tensor of shape {shape}{'' if value.is_cpu else f' on {value.device}'}"
        return value.item()
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return value.item()
    if isinstance(value, Media):
        return f"({kind.__name__})"
    return _written(str(value))


def _text(data: Any, extension: str) -> Source:
    if isinstance(data, Path):
        return Source(data.stat().st_size, data.read_bytes, extension)
    if not isinstance(data, str):
        raise ValueRefusedError(f"it must be a string or a pathlib.Path, not {describe(data)}")
    return _known(data.encode(errors="replace"), extension)


def _file(path: Any, extensions: Sequence[str], what: str) -> Source:
    if not isinstance(path, (str, Path)):
        raise ValueRefusedError(f"it must be the path of {what}, not {describe(path)}")
    file = Path(path)
    with file.open("rb") as opened:
        start = opened.read(_TELLING_BYTES)
    for extension in extensions:
        if extension == "mp3":
            found = start[:3] == b"ID3" or (start[:1] == b"\xff" and start[1:2] > b"\xe0")
        else:
            place, signature = _SIGNATURES[extension]
            found = start[place : place + len(signature)] == signature
        if found:
            return Source(file.stat().st_size, file.read_bytes, extension)
    raise ValueRefusedError(f"{path} is not {what}")


def _known(contents: bytes, extension: str) -> Source:
    return Source(len(contents), lambda: contents, extension)
