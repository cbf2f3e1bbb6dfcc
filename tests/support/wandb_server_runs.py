"""The runs of the test server, and the operations that write and read them."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

Json = dict[str, Any]

_HISTORY = "wandb-history.jsonl"
_EVENTS = "wandb-events.jsonl"
_SUMMARY = "wandb-summary.json"
_CONSOLE = "output.log"
_MOST_SAMPLES = 10_000
_NO_PARQUET: Json = {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": []}}}}


@dataclass
class ServerRun:
    """One run as the server knows it.

    Threads: the server's threads write it under the server's lock, any thread reads it.
    """

    id: str
    entity: str
    project: str
    lock: threading.Condition = field(repr=False)
    display_name: str = ""
    raw_config: Json = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    group: str | None = None
    notes: str | None = None
    host: str | None = None
    program: str | None = None
    sweep: str | None = None
    state: str = "running"
    exit_code: int | None = None
    preempting: bool = False
    stopped: bool = False
    """Whether somebody pressed the stop button on its page: set it."""
    upserts: int = 0
    """How many UpsertBucket calls named it."""
    files: dict[str, bytes] = field(default_factory=dict)
    """The files that were uploaded whole, by name."""
    uploaded: list[str] = field(default_factory=list)
    """The names that the client reported as uploaded."""
    summary_json: str = "{}"
    streams: dict[str, dict[int, str]] = field(default_factory=dict)
    """The lines of the file stream: file name, then offset."""

    alerts: list[tuple[str, str, str]] = field(default_factory=list)
    """Level, title and text of each that was let through."""
    _alerted_at_s: dict[str, float] = field(default_factory=dict)
    lose_steps: set[int] = field(default_factory=set)
    """`_step`s of lines that never arrive, once each, as if the client had dropped them."""
    _lost_offsets: list[int] = field(default_factory=list)

    @property
    def storage_id(self) -> str:
        """The id that the server gives to the run, unlike `id`, which the client chose."""
        return f"{self.entity}/{self.project}/{self.id}"

    @property
    def config(self) -> Json:
        """The config as the user set it."""
        return {key: item["value"] for key, item in self.raw_config.items() if key != "_wandb"}

    @property
    def summary(self) -> Json:
        """The summary, parsed."""
        return dict(json.loads(self.summary_json))

    @property
    def history(self) -> list[Json]:
        """The history, parsed and in the order of the offsets."""
        return [json.loads(line) for line in self.lines(_HISTORY)]

    @property
    def history_line_count(self) -> int:
        """How many lines the history has; cheaper than `len(run.history)`."""
        return len(self.streams.get(_HISTORY, {}))

    @property
    def console(self) -> str:
        """What the script printed, as the client sent it."""
        return "".join(line.rstrip("\n") + "\n" for line in self.lines(_CONSOLE))

    def lines(self, name: str) -> list[str]:
        """Return the lines of one streamed file in the order of their offsets."""
        with self.lock:
            return [line for _, line in sorted(self.streams.get(name, {}).items())]

    def upsert(self, variables: Json) -> None:
        """Take over what one UpsertBucket call sets; what it leaves out stays."""
        self.upserts += 1
        self.display_name = variables.get("displayName") or self.display_name or self.id
        self.group = variables.get("groupName") or self.group
        self.notes = variables.get("notes") or self.notes
        self.host = variables.get("host") or self.host
        self.program = variables.get("program") or self.program
        self.sweep = variables.get("sweep") or self.sweep
        if variables.get("tags") is not None:
            self.tags = list(variables["tags"])
        if variables.get("config"):
            self.raw_config = json.loads(variables["config"])
        self.summary_json = variables.get("summaryMetrics") or self.summary_json
        by_client = not variables.get("id")  # the public API edits a run by its storage id
        if by_client and self.state != "running":
            self._lost_offsets = []  # of another session, which counted otherwise
            self.state, self.exit_code, self.preempting = "running", None, False

    def stream(self, post: Json) -> None:
        """Take over one file_stream post. An offset that is sent again is overwritten."""
        for name, chunk in (post.get("files") or {}).items():
            lines = dict(enumerate(chunk["content"], chunk.get("offset", 0)))
            if name == _HISTORY and (self.lose_steps or self._lost_offsets):
                lines = self._without_lost(lines)
            self.streams.setdefault(name, {}).update(lines)
            if name == _SUMMARY and lines:
                self.summary_json = lines[max(lines)]
        self.uploaded = self.uploaded + (post.get("uploaded") or [])
        self.preempting = self.preempting or bool(post.get("preempting"))
        if post.get("complete"):
            self.exit_code = int(post.get("exitcode") or 0)
            self.state = "failed" if self.exit_code else "finished"

    def alert(self, variables: Json) -> None:
        """Take an alert, unless one of its title came within the time that it is to wait."""
        title, now_s = variables["title"], time.monotonic()
        wait_s = (variables.get("waitDuration") or 0) / 1e3
        if now_s - self._alerted_at_s.get(title, -wait_s - 1) > wait_s:
            self._alerted_at_s[title] = now_s
            self.alerts = [*self.alerts, (variables["severity"], title, variables["text"])]

    def _without_lost(self, lines: dict[int, str]) -> dict[int, str]:
        """Return what arrives of a session's history: what it dropped leaves no hole."""
        kept = {}
        for offset, line in lines.items():
            step = json.loads(line).get("_step")
            if offset in self._lost_offsets:
                continue
            if step in self.lose_steps:
                self.lose_steps.discard(step)
                self._lost_offsets.append(offset)
                continue
            kept[offset - sum(lost < offset for lost in self._lost_offsets)] = line
        return kept

    def node(self) -> Json:
        """Return the run as GraphQL shows it: every field that some query asks for."""
        history, events = self.lines(_HISTORY), self.lines(_EVENTS)
        last_step = max(
            (step for line in history if (step := _step_of(line)) is not None), default=-1
        )
        owner = {"id": self.entity, "name": self.entity}
        telemetry = self.raw_config.get("_wandb", {}).get("value", {}).get("t")
        not_kept = ("commit", "createdAt", "description", "heartbeatAt", "jobType", "sweepName")
        return {
            **dict.fromkeys(not_kept),
            "id": self.storage_id,
            "projectId": "1",
            "project": {"id": self.project, "name": self.project, "entity": owner},
            "name": self.id,
            "displayName": self.display_name,
            "notes": self.notes,
            "group": self.group,
            "tags": self.tags,
            "state": self.state,
            "stopped": self.stopped,
            "readOnly": False,
            "user": {"name": self.entity, "username": self.entity},
            "config": json.dumps(self.raw_config),
            "wandbConfig": json.dumps({"t": telemetry}),
            "summaryMetrics": self.summary_json,
            "systemMetrics": events[-1] if events else "{}",
            "historyLineCount": len(history),
            "eventsLineCount": len(events),
            "logLineCount": len(self.lines(_CONSOLE)),
            "historyTail": json.dumps(history[-1:]),
            "eventsTail": json.dumps(events[-1:]),
            # The highest, wherever it is: the client reads no history above it.
            "historyKeys": {"lastStep": last_step, "sets": [], "keys": {}},
        }


class RunStore:
    """All runs, and the account that they belong to.

    Threads: the server calls it under its lock; no method blocks.
    """

    def __init__(self, entity: str, lock: threading.Condition) -> None:
        self.url = ""
        """Where the server is, for the URLs of files."""
        self.runs: dict[str, ServerRun] = {}
        """The runs by their storage id."""
        self.openings: Counter[str] = Counter()
        """How often clients asked where the run of an id stands, as they do when they open it."""
        self.operations: dict[str, Callable[[Json], Json]] = {
            # the account
            "Viewer": self._viewer,
            "GetViewer": self._viewer,
            "GetDefaultEntity": self._viewer,
            "ServerFeaturesQuery": lambda variables: {"serverInfo": {"features": []}},
            "OrganizationCoreWeaveOrganizationID": lambda variables: {"entity": None},
            # writing
            "RunResumeStatus": self._resume_status,
            "UpsertBucket": self._upsert,
            "CreateRunFiles": self._create_files,
            "NotifyScriptableRunAlert": self._alert,
            # reading
            "RunStoppedStatus": self._run,
            "Run": self._run,
            "RunState": self._run,
            "RunHistoryKeys": self._run,
            "HistoryPage": self._history_page,
            "RunFiles": self._files,
            "RunParquetHistory": lambda variables: _NO_PARQUET,
        }
        self._entity = entity
        self._lock = lock

    def _find(self, variables: Json) -> ServerRun | None:
        """Return the run that a query's variables name, in any of the ways they do it."""
        run_id, entity = variables.get("run") or variables.get("name"), variables.get("entity")
        named = f"{entity or self._entity}/{variables.get('project')}/{run_id}"
        return self.runs.get(variables.get("id") or named)

    def _viewer(self, variables: Json) -> Json:
        person: Json = dict.fromkeys(("entity", "username", "name"), self._entity)
        person |= {"id": "1", "email": "", "flags": "{}", "admin": False, "deletedAt": None}
        person |= {"apiKeys": None, "teams": {"edges": [{"node": {"name": self._entity}}]}}
        return {"viewer": person}

    def _upsert(self, variables: Json) -> Json:
        """Create or update a run."""
        run = self._find(variables)
        inserted = run is None
        if run is None:
            entity, project = variables.get("entity") or self._entity, variables["project"]
            run = ServerRun(variables["name"], entity, project, self._lock)
            self.runs[run.storage_id] = run
        run.upsert(variables)
        return {"upsertBucket": {"bucket": run.node(), "inserted": inserted}}

    def _resume_status(self, variables: Json) -> Json:
        run, entity = self._find(variables), variables.get("entity") or self._entity
        self.openings[variables["name"]] += 1
        model = {"id": variables.get("project"), "name": variables.get("project")}
        owner = {"id": entity, "name": entity}
        return {"model": {**model, "entity": owner, "bucket": run.node() if run else None}}

    def _create_files(self, variables: Json) -> Json:
        run = self._find(variables)
        if run is None:
            return {"createRunFiles": None}
        base = f"{self.url}/uploads/{quote(run.entity)}/{quote(run.project)}/{quote(run.id)}"
        names = variables["files"]
        files = [{"name": name, "uploadUrl": f"{base}/{quote(name, safe='')}"} for name in names]
        return {"createRunFiles": {"runID": run.storage_id, "uploadHeaders": [], "files": files}}

    def _alert(self, variables: Json) -> Json:
        run = self.runs[
            f"{variables['entityName']}/{variables['projectName']}/{variables['runName']}"
        ]
        run.alert(variables)
        return {"notifyScriptableRunAlert": {"success": True}}

    def _run(self, variables: Json) -> Json:
        run = self._find(variables)
        return {"project": {"run": run.node() if run else None}}

    def _files(self, variables: Json) -> Json:
        run = self._find(variables)
        if run is None:
            return {"project": {"run": None}}
        asked = variables.get("fileNames") or list(run.files)
        there = [name for name in asked if name in run.files][: variables["fileLimit"]]
        edges = [{"node": {"name": n, "sizeBytes": str(len(run.files[n]))}} for n in there]
        return {"project": {"run": {"files": {"edges": edges}}}}

    def _history_page(self, variables: Json) -> Json:
        run = self._find(variables)
        if run is None:
            return {"project": {"run": None}}
        steps = range(variables["minStep"], variables["maxStep"])
        page = [line for line in run.lines(_HISTORY) if _step_of(line) in steps]
        most = min(variables["pageSize"], _MOST_SAMPLES)
        if len(page) > most:  # samples, evenly spaced
            page = [page[number * len(page) // most] for number in range(most)]
        return {"project": {"run": {"history": page}}}


@functools.lru_cache(maxsize=2**17)
def _step_of(line: str) -> int | None:
    step: int | None = json.loads(line).get("_step")
    return step
