"""W&B's client: its import, its exceptions, and its public API, as this folder needs them."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import http.client
import importlib
import os
import shutil
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrack.errors import BackendUnavailableError
from fasttrack.redaction import redact_text

if TYPE_CHECKING:
    from fasttrack.journal.entries import Header

_TELEMETRY = "wandb.analytics.opentelemetry.opentelemetry_proxy"
_IDENTITY = ("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_LAUNCH", "WANDB_RUN_ID")
# What the client raises from a run whose wandb-core has died, besides its own errors.
CORE_DIED = (OSError, RuntimeError)

_STOPPED = """
query RunStoppedStatus($entity: String, $project: String, $run: String!) {
  project(name: $project, entityName: $entity) { run(name: $run) { stopped } }
}
"""


def import_wandb() -> Any:
    """Return the module `wandb`.

    Raises:
        BackendUnavailableError: it cannot be imported.
    """
    # Offline means silent: wandb sends telemetry even then, unless told otherwise before import.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    if (key := os.environ.get("WANDB_API_KEY")) is not None:  # a file's newline: refused, even
        os.environ["WANDB_API_KEY"] = key.strip()  # offline
    # Saves two "who am I" queries of 5 s each against a server that does not answer.
    os.environ.setdefault("WANDB_X_DISABLE_VIEWER", "true")
    try:
        import wandb
    except ImportError as error:
        raise BackendUnavailableError(
            f"wandb cannot be imported ({error}): pip install wandb", final=True
        ) from error
    if os.environ["WANDB_ERROR_REPORTING"].lower() in ("false", "0"):
        # Where wandb-core does not start (it was killed; there is no memory), `setup` waits for
        # ever for a lock that it holds itself, on the way to its telemetry.
        with contextlib.suppress(ImportError, AttributeError):  # since 0.31
            importlib.import_module(_TELEMETRY).disable()
    return wandb


def keep_files_in(directory: Path, *, lasting: bool) -> None:
    """Have the client stage files below `directory`, and cache them there where HOME is read-only.

    What the user has set stays as it is. Must come before the client's helper is started.

    Args:
        directory: need not exist.
        lasting: whether this process is the user's: then the place in HOME is left where it is, if
            it can be written. Else what was staged is removed with the process.
    """
    env = import_wandb().env
    if env.DATA_DIR not in os.environ and not (lasting and _can_be_written(env.get_data_dir())):
        staging = directory / "data"
        os.environ[env.DATA_DIR] = str(staging)
        atexit.register(_remove, staging)
    if env.CACHE_DIR not in os.environ and not _can_be_written(env.get_cache_dir()):
        os.environ[env.CACHE_DIR] = str(directory / "cache")  # its log, which runs link to, stays


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    with contextlib.suppress(OSError):
        directory.parent.rmdir()


def _can_be_written(place: str | Path) -> bool:
    directory = Path(place)
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return os.access(directory, os.W_OK | os.X_OK)


def spare_the_cores() -> None:
    """Have the client's helper take one core, and collect its garbage less often.

    Must come before it is started. It is a Go program that holds a few megabytes; a fifth of its
    work is to look through them, and a sixth, online, to hand small pieces from core to core.
    """
    os.environ.setdefault("GOMAXPROCS", "1")
    os.environ.setdefault("GOGC", "400")
    os.environ.setdefault("GOMEMLIMIT", "256MiB")  # above which it is thorough all the same


def pin_identity(header: Header) -> None:
    """Make this process's environment say of the run what its header says; before wandb is loaded.

    Where the environment names a sweep, the client ignores the id, project and entity that `init`
    is given and takes the environment's. A trial's own are the same; what is delivered later, or by
    hand, must neither fall into a sweep nor out of it.
    """
    for name in _IDENTITY:
        os.environ.pop(name, None)
    if header.sweep_id is not None:
        os.environ["WANDB_SWEEP_ID"] = header.sweep_id
        os.environ["WANDB_RUN_ID"] = header.run_id
        os.environ["WANDB_PROJECT"] = header.project
        if header.entity is not None:
            os.environ["WANDB_ENTITY"] = header.entity


def release_streams(run: Any) -> None:
    """Let go of this process's stdout and stderr, which the client has wrapped."""
    for name in ("_out_redir", "_err_redir"):
        wrapper = getattr(run, name, None)
        if wrapper is not None:
            wrapper.uninstall()
            setattr(run, name, None)


def failures(*more: type[Exception]) -> tuple[type[BaseException], ...]:
    """Return the exceptions that calls of a run may raise.

    The client's own have no common base (MailboxClosedError, once wandb-core is dead); the others
    are whatever its socket raises, and what asyncio takes for no error.
    """
    return (Exception, asyncio.CancelledError, *more)


def one_line(error: object) -> str:
    """Return an exception's text for a message, without what looks secret in it."""
    return redact_text(" ".join(str(error).split()))[:300] or type(error).__name__


def probe(base_url: str, timeout_s: float) -> None:
    """Find out cheaply whether anything answers HTTP at `base_url`, through a proxy if one is set.

    Raises:
        BackendUnavailableError: nothing does; says in what way.
    """
    try:
        urllib.request.urlopen(f"{base_url}/healthz", timeout=timeout_s).close()
    except urllib.error.HTTPError:
        return  # any answer is an answer
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        words = next((text for kind, text in _SILENCE if isinstance(reason, kind)), None)
        said = f"{words} ({one_line(reason)})" if words else one_line(reason)
        why = f"{base_url} does not answer: {said}"
        raise BackendUnavailableError(why, network=True) from error


_SILENCE: tuple[tuple[type[Exception], str], ...] = (  # the first that fits
    (socket.gaierror, "its name is not found"),
    (ssl.SSLCertVerificationError, "its TLS certificate is not trusted"),
    (ssl.SSLError, "TLS fails"),
    (ConnectionRefusedError, "the connection is refused"),
    (ConnectionResetError, "the connection is reset"),
    (TimeoutError, "it takes too long"),
)


def unavailable(error: BaseException) -> BackendUnavailableError:
    """Return, in words for the user, why the client did not open a run."""
    errors, said = import_wandb().errors, one_line(error)
    if isinstance(error, errors.AuthenticationError):
        return BackendUnavailableError(f"W&B's API key is refused: {said}", final=True)
    if isinstance(error, errors.UsageError):
        words = "no W&B account" if "No API key" in said else "W&B's client refuses"
        return BackendUnavailableError(f"{words}: {said}", final=True)
    if isinstance(error, errors.CommError):
        late = "timed out" in said.lower()
        words = "W&B does not answer" if late else "W&B refuses the run"
        return BackendUnavailableError(f"{words}: {said}", network=late)
    if isinstance(error, errors.Error):
        words = f"W&B did not open the run: {said}"
        return BackendUnavailableError(words, local="wandb-core" in said)
    if isinstance(error, ValueError):  # its settings are checked by pydantic
        return BackendUnavailableError(f"W&B's client refuses its settings: {said}", final=True)
    words = f"W&B's client failed: {type(error).__name__}: {said}"
    return BackendUnavailableError(words, local=True)


def public_run(path: str, timeout_s: float = 60.0) -> Any:
    """Return the run `entity/project/id` as the client's public API sees it. Asks the server."""
    run = import_wandb().Api(timeout=max(1, int(timeout_s))).run(path)
    # The client makes a folder for downloads, entity/project/run, in WANDB_DIR.
    for folder in (Path(run.dir), *Path(run.dir).parents[:2]):
        with contextlib.suppress(OSError):  # not empty: it is used
            folder.rmdir()
    return run


def stop_was_asked(path: str, timeout_s: float = 10.0) -> bool:
    """Return whether somebody pressed the stop button of the run `entity/project/id`.

    Asks the server, by a call that wandb keeps to itself; where it does not answer, nobody has.
    """
    names = dict(zip(("entity", "project", "run"), path.split("/"), strict=True))
    try:
        api = import_wandb().Api(timeout=int(timeout_s))
        told = api._service_api.execute_graphql(_STOPPED, names, timeout=timeout_s)
        return bool(told["project"]["run"]["stopped"])
    except Exception:  # the client's own exceptions have no common base here
        return False
