"""Make files of what was logged as media, each once, under a name made of its contents' hash.

Arrays become pictures, sound and histograms here, single-threaded and mostly without the GIL; what
takes long, compressing, is left to delivery.
"""

from __future__ import annotations

import io
import os
import wave
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from fasttrack.errors import ValueRefusedError
from fasttrack.journal.media import content_name
from fasttrack.journal.run_directory import media_directory
from fasttrack.worker.device import SideStreams
from fasttrack.worker.png import encode_png

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from fasttrack.hotpath.records import MediaJob
    from fasttrack.notices import Notices

Array: TypeAlias = "np.ndarray[Any, Any]"
"""Pixels (number, height, width, channels), samples (number, channels), or any numbers."""

_CHUNK = 2**20  # elements that are counted at a time
_CUT = "values outside {} were cut off"


class MediaFiles:
    """The contents of a run's media.

    Threads: worker only.
    """

    def __init__(
        self, run_dir: Path, notices: Notices, give_back: Callable[[int], None] = lambda size: None
    ) -> None:
        """Keep files in the run's directory.

        Args:
            run_dir: the run's.
            notices: told what is lost, and what is shown otherwise than it was logged.
            give_back: told of bytes that no longer wait for the disk.
        """
        self._directory = media_directory(run_dir)
        self._notices = notices
        self._give_back = give_back
        self._streams = SideStreams()

    def keep(
        self, job: MediaJob, events: Sequence[torch.Event]
    ) -> tuple[tuple[str, ...], dict[str, Any]] | None:
        """Return the names of a value's files, and what is known of it; None: it is lost, and said.

        Waits for the device and the disk.
        """
        try:
            return self._keep(job, events)
        except ValueRefusedError as error:
            self._notices.refuse(job.name, str(error))
        except RuntimeError as error:  # the device's
            why = str(error).strip().split("\n", 1)[0][:200]
            self._notices.refuse(job.name, f"its tensor could not be read: {why}")
        except OSError as error:
            why = f"the disk took no file of it ({error.strerror})"
            self._notices.lose("media_dropped", job.name, why, result="dropped")
        finally:
            self._give_back(job.size_bytes)
        return None

    def _keep(
        self, job: MediaJob, events: Sequence[torch.Event]
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        about = dict(job.about)
        if job.type == "histogram":
            if job.parts:
                ((data, _),) = job.parts
                about = _count(self._on_host(data, events), about["num_bins"])
            return (), about
        files = []
        rates = about.pop("sample_rates", ())
        for number, (data, extension) in enumerate(job.parts):
            rate = rates[number] if rates else 0
            for contents in self._encoded(job.name, data, rate, events):
                name = content_name(contents, extension)
                self._write(name, contents)
                files.append(name)
        return tuple(files), about

    def _encoded(
        self, name: str, data: Any, rate: int, events: Sequence[torch.Event]
    ) -> Iterator[bytes]:
        """Yield the contents of what a part is: bytes, sound if it has a rate, or pictures."""
        if isinstance(data, bytes):
            yield data
        elif rate:
            yield self._sound(name, self._on_host(data, events), rate)
        else:
            for picture in self._as_bytes(name, self._on_host(data, events)):
                yield encode_png(picture)

    def _on_host(self, data: Any, events: Sequence[torch.Event]) -> Array:
        if isinstance(data, np.ndarray):
            return data
        host = self._streams.fetch(data, events)
        if host.dtype.is_floating_point and host.element_size() < 4:
            host = host.float()  # NumPy does not know all of them
        found: Array = host.numpy()
        return found

    def _write(self, name: str, contents: bytes) -> None:
        path = self._directory / name
        if path.exists():
            return
        self._directory.mkdir(mode=0o700, exist_ok=True)
        scratch = self._directory / f"{name}.{os.getpid()}.tmp"
        try:
            scratch.write_bytes(contents)
            scratch.replace(path)
        except OSError:
            scratch.unlink(missing_ok=True)
            raise

    # --- arrays -----------------------------------------------------------------------------------

    def _as_bytes(self, name: str, pixels: Array) -> Array:
        """Return pixels from 0 to 255."""
        if pixels.dtype == np.uint8:
            return pixels
        if pixels.dtype == bool:
            full: Array = pixels.astype(np.uint8) * np.uint8(255)
            return full
        if pixels.dtype.kind == "f":
            self._say_cut(name, pixels, 0.0, 1.0, "0 to 1 (of floats; whole numbers are 0 to 255)")
            with np.errstate(invalid="ignore"):
                scaled = np.clip(np.nan_to_num(pixels, nan=0.0), 0.0, 1.0) * 255.0 + 0.5
                shown: Array = scaled.astype(np.uint8)
                return shown
        self._say_cut(name, pixels, 0, 255, "0 to 255 (of whole numbers; floats are 0 to 1)")
        cut: Array = np.clip(pixels, 0, 255).astype(np.uint8)
        return cut

    def _sound(self, name: str, samples: Array, rate: int) -> bytes:
        """Return samples (number, channels) as a WAV file of 16 bits."""
        if samples.dtype.kind == "f":
            self._say_cut(name, samples, -1.0, 1.0, "-1 to 1")
            samples = np.clip(np.nan_to_num(samples, nan=0.0), -1.0, 1.0) * 32767.0
            samples = np.round(samples).astype("<i2")
        file = io.BytesIO()
        with wave.open(file, "wb") as writer:
            writer.setnchannels(samples.shape[1])
            writer.setsampwidth(2)
            writer.setframerate(rate)
            writer.writeframes(np.ascontiguousarray(samples, "<i2").tobytes())
        return file.getvalue()

    def _say_cut(self, name: str, array: Array, least: float, most: float, what: str) -> None:
        if not (array.min() >= least and array.max() <= most):  # NaN is neither
            self._notices.warn(f"media_range:{name}", f"{name}: {_CUT.format(what)}")


def _count(array: Array, num_bins: int) -> dict[str, Any]:
    """Return how the finite elements of an array are distributed.

    Raises:
        ValueRefusedError: there are none.
    """
    flat = array.reshape(-1)
    chunks = [flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK)]
    finite = chunks
    if flat.dtype.kind == "f" and not all(np.isfinite(chunk).all() for chunk in chunks):
        finite = [part for chunk in chunks if (part := chunk[np.isfinite(chunk)]).size]
    if not finite:
        raise ValueRefusedError("none of its elements is finite")
    least = float(min(chunk.min() for chunk in finite))
    most = float(max(chunk.max() for chunk in finite))
    if not np.isfinite(most - least):
        raise ValueRefusedError("its elements lie too far apart for a histogram")
    least, most = _range(least, most, num_bins)
    counts = np.zeros(num_bins, np.int64)
    for chunk in finite:
        counted, edges = np.histogram(chunk.astype(np.float64), num_bins, (least, most))
        counts += counted
    told: dict[str, Any] = {"counts": counts.tolist(), "bins": edges.tolist()}
    if left_out := flat.size - int(counts.sum()):
        told["not_finite"] = left_out
    return told


def _range(least: float, most: float, num_bins: int) -> tuple[float, float]:
    """Return what bins are to cover: as NumPy has it, but wide enough for edges that differ."""
    if least == most:
        least, most = least - 0.5, most + 0.5
    short = 2 * num_bins * float(np.spacing(max(abs(least), abs(most)))) - (most - least)
    return (least - short / 2, most + short / 2) if short > 0 else (least, most)
