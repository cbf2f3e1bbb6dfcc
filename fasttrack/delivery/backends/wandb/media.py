"""Media as W&B has them: in a row's place for a number an object that names files of the run.

The client's own classes make these objects and put the files among the run's. Only the names of the
files are chosen here: they hold what tells the contents from others, so that a row read back from a
file or a server can be compared with the journal's, however its picture was compressed; and the
user's step, so that a session that finds the row there, of one that was killed before the file had
been uploaded, sends the file once more under the name that the row gives.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from fasttrack.delivery.backends.wandb.client import import_wandb, one_line
from fasttrack.delivery.media_files import files_of
from fasttrack.journal.media import ID_LENGTH, files_identity, histogram_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fasttrack.delivery.backends.wandb.pages import Pages
    from fasttrack.journal.media import MediaRow

_ID = re.compile(rf"_([0-9a-f]{{{ID_LENGTH}}})\.[^/]*$")
_AS_CODE = "<pre style='white-space: pre-wrap'>{}</pre>"
_KINDS = {  # of the object, and the folder of its files, where the client makes none
    "image": ("image-file", "images"),
    "audio": ("audio-file", "audio"),
    "html": ("html-file", "html"),
    "text": ("html-file", "html"),
    "table": ("table-file", "table"),
    "video": ("video-file", "videos"),
}
_SHOWN_WITHIN_S = 3.0
_POLL_S, _LONGEST_POLL_S = 0.1, 1.0
_LONGEST_NUMBER = 32
_OBJECT_BYTES = 1000  # of one file's, its name's and its caption's length aside


def identity_of(value: object) -> object:
    """Return what tells an object of W&B's from others, as `MediaRow.identity` does.

    What is no such object is returned as it is.
    """
    if type(value) is not dict or "_type" not in value:
        return value
    try:
        if value["_type"] == "histogram":
            return histogram_identity(value["values"], value["bins"])
        found = [_ID.search(path) for path in _paths(value)]
        return files_identity(match[1] if match else "" for match in found)
    except (KeyError, TypeError, ValueError):
        return value


def _paths(made: dict[str, Any]) -> list[str]:
    """Return the names of the files that an object shows, in their order."""
    inner = made.get("filenames") or [one["path"] for one in made.get("audio", ())]
    return inner or ([made["path"]] if "path" in made else [])


def size_of(row: MediaRow) -> int:
    """Return what a row's object takes of a line at most."""
    numbers = len(row.about.get("counts", ())) + len(row.about.get("bins", ()))
    captions = sum(len(one or "") for one in row.about.get("captions", ()))
    named = len(row.files) * (_OBJECT_BYTES + 6 * len(row.name))
    return named + _LONGEST_NUMBER * numbers + 6 * captions


class Exhibits:
    """Make W&B's objects of one open run's media.

    Threads: one at a time.
    """

    def __init__(self, run: Any, run_dir: Path, leave_out: Callable[[str], None]) -> None:
        """Be ready.

        Args:
            run: the client's.
            run_dir: where the journal's files are.
            leave_out: told what cannot be shown.
        """
        self._run = run
        self._run_dir = run_dir
        self._leave_out = leave_out
        self.sent: dict[str, int] = {}
        """The size of each file among the run's, by its name there."""
        self.artifacts = 0
        """How many artifacts the client has made of them: it makes one of each table."""

    def absent(self, pages: Pages, timeout_s: float) -> list[str] | None:
        """Return which files the server does not have as they are; None: it does not tell.

        Waits up to `timeout_s`, and not long, until it shows them: the client has uploaded them.
        """
        deadline, pause_s = time.monotonic() + min(timeout_s, _SHOWN_WITHIN_S), _POLL_S
        names = list(self.sent)
        while names:
            there = pages.file_sizes(names)
            if there is None:
                return None
            names = [name for name in names if there.get(name) != self.sent[name]]
            if time.monotonic() >= deadline:
                break
            if names:
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_POLL_S)
        return names

    def make(self, row: MediaRow) -> dict[str, Any]:
        """Return the object for a row. See `_make`."""
        made = self._make(row)
        for path in _paths(made):
            with contextlib.suppress(OSError, ValueError):  # of what is not shown there is none
                self.sent[path] = Path(self._run.dir, path).stat().st_size
        return made

    def _make(self, row: MediaRow) -> dict[str, Any]:
        """Return the object for a row, its files among the run's, under the same names every time.

        Where a file is not there any more, or the client does not take it, the object is all the
        same, and that is said: the row is there, what it showed is not. Blocks on the disk.
        """
        if row.type == "histogram":
            counts, bins = row.about["counts"], row.about["bins"]
            made: dict[str, Any] = import_wandb().Histogram(np_histogram=(counts, bins)).to_json()
            return made
        try:
            paths = files_of(row, self._run_dir)
        except OSError as error:
            self._leave_out(f"what {row.name!r} showed at step {row.step} ({error.strerror})")
            return self._by_hand(row, ())
        try:
            return self._by_client(row, paths)
        except Exception as error:  # the client's own exceptions have no common base
            self._leave_out(f"{row.name!r} is shown by W&B as far as it can: {one_line(error)}")
            return self._by_hand(row, paths)

    def _by_client(self, row: MediaRow, paths: Sequence[Path]) -> dict[str, Any]:
        wandb, run = import_wandb(), self._run
        captions = row.about.get("captions") or [None] * len(paths)
        if row.type == "table":
            told = orjson.loads(paths[0].read_bytes())
            table = wandb.Table(columns=told["columns"], data=told["data"], allow_mixed_types=True)
            table._caption = captions[0]
            self._log_artifact(table, row.name)
            items = [table]
        elif row.type == "image":
            pairs = zip(paths, captions, strict=True)
            items = [wandb.Image(str(path), caption=caption) for path, caption in pairs]
        elif row.type == "audio":
            pairs = zip(paths, captions, strict=True)
            items = [wandb.Audio(str(path), caption=caption) for path, caption in pairs]
        elif row.type == "video":
            items = [wandb.Video(str(paths[0]), caption=captions[0])]
        elif row.type == "html":
            items = [wandb.Html(str(paths[0]), inject=False)]
        else:
            import html

            text = html.escape(paths[0].read_text(encoding="utf-8", errors="replace"))
            items = [wandb.Html(_AS_CODE.format(text), inject=False, data_is_not_path=True)]
        for item, name in zip(items, row.files, strict=True):
            item.bind_to_run(run, row.name, row.step, id_=name[:ID_LENGTH])
        if not row.about.get("many"):
            single: dict[str, Any] = items[0].to_json(run)
            return single
        if row.type == "image":
            several: dict[str, Any] = type(items[0]).seq_to_json(items, run, row.name, row.step)
            return several
        # The client's own asks for a package that it does not need for files.
        sounds = [item.to_json(run) for item in items]
        return {"_type": "audio", "count": len(sounds), "audio": sounds}

    def _log_artifact(self, table: Any, name: str) -> None:
        """Have the client make an artifact of a table, as it does itself: its page shows that."""
        try:
            from wandb.sdk.data_types.utils import _log_table_artifact
        except ImportError:  # another version; there is the file
            return
        _log_table_artifact(table, name, self._run)
        self.artifacts += 1

    def _by_hand(self, row: MediaRow, paths: Sequence[Path]) -> dict[str, Any]:
        """Return an object like the client's; its files are put where they can be."""
        kind, folder = _KINDS[row.type]
        objects = []
        for place, name in enumerate(row.files):
            stem, _, extension = name.partition(".")
            where = f"media/{folder}/{row.name}_{row.step}_{stem}.{extension}"
            if place < len(paths):
                with contextlib.suppress(Exception):  # the row comes first
                    target = Path(self._run.dir, where)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(paths[place], target)
                    self._run._publish_file(where)
            objects.append({"_type": kind, "path": where})
        if not row.about.get("many"):
            return objects[0]
        if row.type == "audio":
            return {"_type": "audio", "count": len(objects), "audio": objects}
        names = [one["path"] for one in objects]
        return {"_type": "images/separated", "count": len(names), "filenames": names}
