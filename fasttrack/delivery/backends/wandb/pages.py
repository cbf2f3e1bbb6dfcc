"""A run's history as the server has it, page by page, at a fraction of the public API's cost.

The public API has wandb-core take every line to pieces, and makes of each value a message and of
each message a value; to import what it needs takes a fifth of a second. Here wandb-core only
carries the question and its answer, which are those that it exchanges with a server itself.

It leans on names that wandb keeps to itself (seen with 0.31). Where one is missing, or the server
does not answer as expected, there are no pages, and `history.py` reads the run.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import orjson

from fasttrack.delivery.backends.wandb.client import failures, import_wandb

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_TIMEOUT_S = 20.0
_FILES_AT_ONCE = 500
_LEAST_SAMPLES, _MOST_SAMPLES = 1000, 2**31 - 1

# As the client's own: a server may know them by their names.
_LAST_STEP = """
query RunHistoryKeys($project: String!, $entity: String!, $name: String!) {
  project(name: $project, entityName: $entity) { run(name: $name) { historyKeys } }
}
"""
_PAGE = """
query HistoryPage(
  $entity: String!, $project: String!, $run: String!, $minStep: Int64!, $maxStep: Int64!,
  $pageSize: Int!
) {
  project(name: $project, entityName: $entity) {
    run(name: $run) { history(minStep: $minStep, maxStep: $maxStep, samples: $pageSize) }
  }
}
"""
_FILES = """
query RunFiles(
  $entity: String!, $project: String!, $name: String!, $fileLimit: Int = 50,
  $fileNames: [String] = []
) {
  project(name: $project, entityName: $entity) {
    run(name: $name) {
      files(names: $fileNames, first: $fileLimit) { edges { node { name sizeBytes } } }
    }
  }
}
"""


class Pages:
    """What the server shows of one run, as long as it can be asked so.

    Threads: one at a time.
    """

    def __init__(self, path: str) -> None:
        """Be ready to ask for `entity/project/id`."""
        self._path = path
        self._asks: Callable[..., Any] | None = None
        self._failed = False

    def last_step(self) -> int | None:
        """Return the last `_step`, -1 of none; None: there are no pages."""
        run = self._run(_LAST_STEP, "name")
        try:
            return None if run is None else int((run["historyKeys"] or {}).get("lastStep", -1))
        except failures():
            return None

    def read(
        self, first: int, end: int, *, at_least: int = _LEAST_SAMPLES
    ) -> list[dict[str, object]] | None:
        """Return the lines from one `_step` up to, not including, another; None: no pages.

        It is asked for as many samples as there are steps, or `at_least` so many where steps may
        have several lines, so that no line is left out.
        """
        samples = min(max(_LEAST_SAMPLES, at_least, end - first), _MOST_SAMPLES)
        run = self._run(_PAGE, "run", minStep=first, maxStep=end, pageSize=samples)
        try:
            lines = None if run is None else _loads(f"[{','.join(run['history'])}]")
        except failures():
            return None
        return lines if lines is None or {*map(type, lines)} <= {dict} else None

    def file_sizes(self, names: Sequence[str]) -> dict[str, int] | None:
        """Return how many bytes the server has of files of the run; None: it does not tell."""
        found: dict[str, int] = {}
        try:
            for start in range(0, len(names), _FILES_AT_ONCE):
                asked = list(names[start : start + _FILES_AT_ONCE])
                variables = {**self._names("name"), "fileNames": asked, "fileLimit": len(asked)}
                ask = self._ask()
                told = ask(_FILES, variables, timeout=_TIMEOUT_S, parse=orjson.loads)
                nodes = [edge["node"] for edge in told["project"]["run"]["files"]["edges"]]
                found |= {node["name"]: int(node["sizeBytes"]) for node in nodes}
        except failures():
            return None
        return found

    def _names(self, key: str) -> dict[str, str]:
        return dict(zip(("entity", "project", key), self._path.split("/"), strict=True))

    def _run(self, query: str, key: str, **more: int) -> Any:
        """Ask for the run, which the query names `key`."""
        if self._failed:
            return None
        try:
            ask = self._ask()
            told = ask(query, {**self._names(key), **more}, timeout=_TIMEOUT_S, parse=orjson.loads)
            return told["project"]["run"]
        except failures():
            self._failed = True
            return None

    def _ask(self) -> Callable[..., Any]:
        if self._asks is None:
            import_wandb()
            from wandb.apis.public.service_api import ServiceApi
            from wandb.sdk import wandb_setup

            settings = wandb_setup.singleton().settings.model_copy()
            self._asks = ServiceApi(settings).execute_graphql
        return self._asks


def _loads(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # wandb-core writes NaN and Infinity as they are
        return json.loads(text)
