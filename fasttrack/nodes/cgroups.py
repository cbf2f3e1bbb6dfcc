"""Where the kernel accounts for the job that this process belongs to, as files to read.

Slurm, Kubernetes and container runtimes give each job a cgroup. Of version 2 there is one tree, of
version 1 one for each controller; some systems have both, with a controller in one of them only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_JOB = re.compile(r".*/job_\d+(?=/|$)")  # Slurm's: below it are steps and tasks
_SESSIONS = ("/user.slice/", "/init.scope/")  # of somebody who has logged in: no job
_NOT_ROOT = "cgroup.events"  # a file that version 2 has in all cgroups but the root


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A directory in which the kernel accounts for the job."""

    path: Path
    version: int
    """1 or 2."""


def find_cgroup(root: Path, controller: str, in_v1: str, in_v2: str) -> Cgroup | None:
    """Return the job's cgroup that has a controller's file; None: there is none but the machine's.

    Args:
        root: of the file system.
        controller: its name in version 1, such as "memory".
        in_v1: a file that it must have in version 1.
        in_v2: the same in version 2.
    """
    try:
        own = _own_paths((root / "proc/self/cgroup").read_text())
        mounts = list(_mounts((root / "proc/self/mountinfo").read_text()))
    except (OSError, ValueError):  # not Linux, or hidden
        return None
    for version, wanted, file in ((2, "", in_v2), (1, controller, in_v1)):
        path = own.get(wanted)
        if path is None:
            continue
        for kind, controllers, mount_root, point in mounts:
            if kind != ("cgroup2" if version == 2 else "cgroup"):
                continue
            if version == 1 and controller not in controllers:
                continue
            for inner in _inner(path, mount_root, version):
                found = root / point.lstrip("/") / inner.strip("/")
                if (found / file).is_file() and (version == 1 or (found / _NOT_ROOT).is_file()):
                    return Cgroup(found, version)
    return None


def _own_paths(text: str) -> dict[str, str]:
    """Return the cgroup of this process by controller; that of version 2 under ""."""
    paths = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _mounts(text: str) -> Iterator[tuple[str, list[str], str, str]]:
    """Yield kind, options, root and point of each mounted file system."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) > 4 and len(kind) > 2:
            yield kind[0], kind[2].split(","), fields[3], fields[4]


def _inner(path: str, mount_root: str, version: int) -> Iterator[str]:
    """Yield where, below its mount point, a cgroup may be: the whole job first."""
    if f"{path}/".startswith(_SESSIONS):
        return
    in_container = mount_root != "/"
    if in_container:  # what is seen of the tree begins there
        path = path[len(mount_root) :] if path.startswith(mount_root) else ""
    job = _JOB.match(path)
    if job is not None:
        yield job.group()
    if path.strip("/") or in_container:
        yield path
    if in_container:
        yield ""
    elif path == "/" and version == 2:  # with namespaces, a container sees its own as the root
        yield "."
