"""Weights & Biases. The only file that imports wandb.

What is worked around here, each seen with wandb 0.31 (which is why older ones are refused):

* `init` with an unreachable server blocks for 100 s: we probe first, and set small timeouts. A
  failed `init` leaves an empty run folder and keeps the run id busy until `teardown`.
* `finish` blocks for days when the server is gone: it gets a timeout.
* One refused upload (most 4xx) ends uploading for the run with a printed warning only:
  `stop_on_fatal_error` tells us through `stop_fn`.
* `log` and `finish` raise whatever their socket raises once wandb-core has died.
* Artifacts are copied to W&B's staging folder and into its cache unless they are "immutable" and
  skip the cache; ours are staged already. A refused upload is silent unless it is waited for.
* `_timestamp` is overwritten by the client, and a row behind the last `_step` is dropped: the
  courier sends its own axis, `step`, and only rising `_step`s.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrack.delivery.backends.base import Lost, Refused, Unavailable
from fasttrack.delivery.backends.wandb.file import read_payloads
from fasttrack.delivery.backends.wandb.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    import wandb

STEP_KEY = "step"
_PROBE_TIMEOUT_S = 5.0
_PROOF_POLL_S = 0.1
# wandb's client raises these from a run whose wandb-core has died, besides its own errors.
_CORE_DIED = (OSError, RuntimeError)


class WandbBackend:
    """Deliver one run to W&B, online or into an offline run directory.

    Threads: one at a time; `prepare_artifact` and `upload` on a second one beside it.
    """

    def __init__(self, *, in_trainer: bool) -> None:
        """Prepare; nothing is imported or opened yet.

        Args:
            in_trainer: True where this process is the training process, whose identity and
                console wandb then finds by itself.
        """
        self._in_trainer = in_trainer
        self._run: wandb.Run | None = None
        self._outbox: Outbox | None = None
        self._online = False
        self._path = ""
        self._directory = Path()
        self._stopped = False
        self.starting_step = 0
        self.url: str | None = None
        self.directory_name = ""

    def open(self, header: dict[str, Any], *, online: bool, timeout_s: float) -> None:
        """Start the W&B run. See `Backend.open`."""
        wandb = _import_wandb()
        self._stopped = False
        base_dir = Path(header["base_dir"])
        if online:
            _probe(wandb.setup().settings.base_url, min(timeout_s, _PROBE_TIMEOUT_S))
        before = set(_run_folders(base_dir, header["run_id"]))
        try:
            run = wandb.init(
                project=header["project"],
                entity=header["entity"],
                id=header["run_id"],
                name=header["name"],
                tags=header["tags"],
                group=header["group"],
                notes=header["notes"],
                config=_inert(header["config"]),
                dir=str(base_dir),
                mode="online" if online else "offline",
                resume="allow",
                reinit="create_new",
                settings=self._settings(wandb, header, timeout_s),
            )
        except (wandb.errors.Error, *_CORE_DIED, ValueError) as error:
            self.abandon()
            for folder in set(_run_folders(base_dir, header["run_id"])) - before:
                shutil.rmtree(folder, ignore_errors=True)
            final = isinstance(error, (wandb.errors.UsageError, wandb.errors.AuthenticationError))
            raise Unavailable(_one_line(error), final=final) from error
        run.define_metric(STEP_KEY, hidden=True)
        run.define_metric("*", step_metric=STEP_KEY)
        self._run = run
        if not self._in_trainer:  # there the user may log, too, from another thread
            request = wandb.proto.wandb_server_pb2.ServerRequest
            encoding = getattr(run.settings, "x_history_value_encoding", "json")  # since 0.31
            self._outbox = Outbox(run._interface, request, encoding)
        self._online = online
        self._path = f"{run.entity}/{run.project}/{run.id}"
        self.starting_step = run.starting_step
        self.url = run.url if online else None
        self._directory = Path(run.dir).parent
        self.directory_name = self._directory.name

    def _settings(self, wandb: Any, header: dict[str, Any], timeout_s: float) -> Any:
        settings: dict[str, Any] = {
            "init_timeout": timeout_s,
            "finish_timeout": header["finish_timeout_s"],
            "finish_timeout_raises": True,
            "x_transaction_log_flush_interval": 1,
            "stop_on_fatal_error": True,
            "stop_fn": self._stop,
            # wandb's own look at git would record a token that is a remote's user name.
            "disable_git": True,
        }
        git = header.get("git", {})
        if git.get("commit") and git.get("remote"):  # wandb takes both or none
            settings |= {"git_commit": git["commit"], "git_remote_url": git["remote"]}
        if not self._in_trainer:
            sys.argv = list(header["argv"])
            settings |= {
                "program": header["program"],
                "program_relpath": header["program_relpath"],
                "host": header["host"],
                "x_executable": header["executable"],
                "x_stats_pid": header["pid"],
                "x_start_time": header["time"],
                "console": "wrap" if header["console"] else "off",
                "silent": True,
            }
        return wandb.Settings(**{key: v for key, v in settings.items() if v is not None})

    def _stop(self) -> None:
        self._stopped = True

    def log(self, values: dict[str, Any], step: int) -> None:
        """Hand over one row. See `Backend.log`."""
        assert self._run is not None
        try:
            if self._outbox is None or not self._outbox.take(values, step):
                self._run.log(values, step=step)
        except _failures() as error:
            raise Lost(_one_line(error)) from error

    def console(self, stream: str, text: str) -> None:
        """Write to this process's own stream, which wandb has wrapped."""
        target = sys.stderr if stream == "stderr" else sys.stdout
        with contextlib.suppress(OSError, ValueError):
            target.write(text)

    def configure(self, values: dict[str, Any]) -> None:
        """Update the run's config. See `Backend.configure`."""
        assert self._run is not None
        try:
            self._run.config.update(_inert(values), allow_val_change=True)  # type: ignore[no-untyped-call]
        except _failures() as error:
            raise Lost(_one_line(error)) from error

    def prepare_artifact(self, entry: dict[str, Any], files: Path) -> Any:
        """Make a W&B artifact and hash its files where they lie."""
        known = {} if entry["step"] is None else {"step": entry["step"]}
        artifact = _import_wandb().Artifact(entry["name"], entry["type"], metadata=known)
        artifact.add_dir(str(files), policy="immutable", skip_cache=True)
        return artifact

    def upload(self, artifact: Any, aliases: list[str]) -> str | None:
        """Log the artifact and wait for it. See `Backend.upload`."""
        run = self._run
        if run is None:
            raise Lost("the run has ended")
        try:
            run.log_artifact(artifact, aliases=aliases)
            if not self._online:
                return None
            artifact.wait()
        except ValueError as error:
            raise Refused(_one_line(error)) from error
        except _failures() as error:
            raise Lost(_one_line(error)) from error
        return f"the server has it as {artifact.source_name} ({artifact.state.lower()})"

    def uploaded_bytes(self) -> int | None:
        """Ask wandb-core, by a call that wandb keeps to itself. See `Backend.uploaded_bytes`."""
        run = self._run
        if run is None or not self._online:
            return None
        try:
            poll = run._interface.deliver_poll_exit().wait_or(timeout=1)  # type: ignore[union-attr]
            return int(poll.response.poll_exit_response.pusher_stats.uploaded_bytes)
        except Exception:  # the client's own exceptions have no common base here
            return None

    def read_rows(self, first: int, end: int) -> dict[int, dict[str, Any]]:
        """Scan the history through the public API. See `Backend.read_rows`."""
        try:
            run = _public_run(self._path)
            return {row["_step"]: row for row in run.scan_history(min_step=first, max_step=end)}
        except Exception as error:  # the client's own exceptions have no common base here
            raise Lost(f"the run's rows cannot be read ({_one_line(error)})") from error

    def check(self) -> None:
        """Post the outbox; raise Lost once wandb has said that it uploads no more."""
        self._post()
        if self._stopped:
            raise Lost("W&B ended the upload")

    def _post(self) -> None:
        if self._outbox is not None:
            try:
                self._outbox.post()
            except _failures() as error:
                raise Lost(_one_line(error)) from error

    def finish(self, *, exit_code: int, preempting: bool) -> None:
        """Finish the W&B run. See `Backend.finish`."""
        assert self._run is not None
        self._post()
        try:
            if preempting:
                self._run.mark_preempting()
            self._run.finish(exit_code=exit_code)
        except _failures() as error:
            raise Lost(_one_line(error)) from error
        finally:
            self._run = self._outbox = None

    def prove(self, *, last_step: int, rows: int, artifacts: int, timeout_s: float) -> str | None:
        """Ask the server for its last step, or read the closed file back."""
        if last_step < 0 and not artifacts:
            return "no rows"
        deadline = time.monotonic() + timeout_s
        while True:  # a server takes rows in, and wandb-core closes its file, after finish()
            proof = (
                self._prove_online(last_step, timeout_s)
                if self._online
                else self._prove_file(last_step, rows, artifacts)
            )
            if proof is not None or time.monotonic() >= deadline:
                return proof
            time.sleep(_PROOF_POLL_S)

    def _prove_online(self, last_step: int, timeout_s: float) -> str | None:
        wandb = _import_wandb()
        try:
            seen = _public_run(self._path, timeout_s).lastHistoryStep
        except (wandb.errors.Error, *_CORE_DIED, ValueError) as error:
            return f"only the client's word: the server did not answer ({_one_line(error)})"
        return f"the server's last step is {seen}" if seen >= last_step else None

    def _prove_file(self, last_step: int, rows: int, artifacts: int) -> str | None:
        from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

        counted, seen, ended, kept = 0, -1, False, 0
        for file in self._directory.glob("run-*.wandb"):
            for payload in read_payloads(file):
                record = Record.FromString(payload)
                kind = record.WhichOneof("record_type")
                ended = ended or kind == "exit"
                kept += kind == "artifact"
                if kind == "history":
                    counted += 1
                    seen = max(seen, record.history.step.num)
        whole = ended and counted == rows and kept == artifacts
        if whole and seen == (last_step if rows else -1):
            return f"{counted} rows read back from {self._directory.name}"
        return None

    def abandon(self) -> None:
        """Stop wandb-core, which frees the run id; ends every other W&B run in the process too."""
        self._run = self._outbox = None
        if "wandb" in sys.modules:
            with contextlib.suppress(*_failures()):
                _import_wandb().teardown(exit_code=1)


def _import_wandb() -> Any:
    # Offline means silent: wandb sends telemetry even then, unless told otherwise before import.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    # Saves two "who am I" queries of 5 s each against a server that does not answer.
    os.environ.setdefault("WANDB_X_DISABLE_VIEWER", "true")
    try:
        import wandb
    except ImportError as error:
        raise Unavailable(
            f"wandb cannot be imported ({error}): pip install wandb", final=True
        ) from error
    return wandb


def _public_run(path: str, timeout_s: float = 60.0) -> Any:
    run = _import_wandb().Api(timeout=max(1, int(timeout_s))).run(path)
    # The client makes a folder for downloads, entity/project/run, in WANDB_DIR.
    for folder in (Path(run.dir), *Path(run.dir).parents[:2]):
        with contextlib.suppress(OSError):  # not empty: it is used
            folder.rmdir()
    return run


def _inert(value: Any) -> Any:
    """Return `value` without what wandb would take for an artifact, fetch, and fail over."""
    if isinstance(value, dict):
        text = str(value) if value.get("_type") == "artifactVersion" else None
        return text or {name: _inert(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_inert(item) for item in value]
    is_reference = isinstance(value, str) and value.startswith("wandb-artifact://")
    return f" {value}" if is_reference else value


def _failures(*more: type[Exception]) -> tuple[type[Exception], ...]:
    return (_import_wandb().errors.Error, *_CORE_DIED, *more)


def _probe(base_url: str, timeout_s: float) -> None:
    """Find out cheaply whether anything answers HTTP at `base_url`, through a proxy if one is set.

    Raises:
        Unavailable: nothing does.
    """
    try:
        urllib.request.urlopen(f"{base_url}/healthz", timeout=timeout_s).close()
    except urllib.error.HTTPError:
        return  # any answer is an answer
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise Unavailable(f"{base_url} does not answer: {_one_line(reason)}") from error


def _run_folders(base_dir: Path, run_id: str) -> list[Path]:
    return [*(base_dir / "wandb").glob(f"run-*-{run_id}")]


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def describe_client(timeout_s: int) -> Iterator[dict[str, Any]]:
    """Yield what the client finds here, fact by fact; the first asks no server. Never the key.

    May take longer than `timeout_s`: names must be resolved and programs started.

    Yields:
        `version`, `core` (wandb-core's path), `base_url`, `key_source` (None: there is no key);
        then `latency_ms`, or `server_error` and `fault`, its type; then `user` or `key_error`.

    Raises:
        Exception: wandb, or its configuration, is broken; any of the many types that wandb has.
    """
    wandb = _import_wandb()
    settings = wandb.setup().settings
    core = wandb.util.get_core_path()
    source = _key_source(wandb, settings)
    base_url = settings.base_url
    yield {"version": wandb.__version__, "core": core, "base_url": base_url, "key_source": source}
    started_s = time.monotonic()
    try:
        _probe(base_url, timeout_s)
    except Unavailable as error:
        reason = getattr(error.__cause__, "reason", error.__cause__)
        yield {"server_error": str(error), "fault": type(reason).__name__}
        return
    yield {"latency_ms": round(1000 * (time.monotonic() - started_s))}
    try:
        yield {"user": wandb.Api(timeout=timeout_s).viewer.username}
    except (wandb.errors.Error, *_CORE_DIED, ValueError) as error:
        yield {"key_error": _one_line(error)}


def _key_source(wandb: Any, settings: Any) -> str | None:
    """Return where the client takes its API key from, in its own order; None: there is none."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if os.environ.get(name):
            return name
    try:
        in_netrc = wandb.sdk.lib.wbauth.read_netrc_auth(host=settings.base_url) is not None
    except wandb.errors.Error:  # something stands there, but no key
        in_netrc = True
    return "the netrc file" if in_netrc else "W&B's settings" if settings.api_key else None
