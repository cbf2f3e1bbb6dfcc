"""The two builds: an earlier commit in a worktree of its own, and the tree as it stands."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.lib.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator


class Build(NamedTuple):
    """One build."""

    name: str
    path: Path
    """A folder from which its `fasttrack` is imported, and today's `bench`."""


def git(repository: Path, *arguments: str | Path) -> str:
    """Return what a git command prints.

    Raises:
        RuntimeError: it failed; the message holds what it said.
    """
    command = ["git", "-C", repository, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return done.stdout.strip()


def commit_of(revision: str, repository: Path) -> str:
    """Return the commit that a revision names.

    Raises:
        RuntimeError: none.
    """
    return git(repository, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")


def same_commit(revision: str, other: str) -> bool:
    """Return whether both name the same commit of this repository."""
    return commit_of(revision, ROOT) == commit_of(other, ROOT)


@contextlib.contextmanager
def checked_out(revision: str, repository: Path) -> Iterator[Path]:
    """Give a worktree of the repository's `revision`; it is removed at the end, come what may.

    Raises:
        RuntimeError: there is no such revision, or git fails.
    """
    commit = commit_of(revision, repository)
    with tempfile.TemporaryDirectory(prefix="fasttrack-against-") as name:
        tree = Path(name, "tree")
        try:
            git(repository, "worktree", "add", "--quiet", "--detach", tree, commit)
            yield tree
        finally:
            with contextlib.suppress(RuntimeError):  # it may not have come to be
                git(repository, "worktree", "remove", "--force", tree)


@contextlib.contextmanager
def builds(revision: str) -> Iterator[tuple[Build, Build]]:
    """Give (the build of `revision`, the one of the tree that holds this file).

    Both run today's bench: a path holds `fasttrack` of its build and `bench` of this tree, so what
    is measured differs in nothing but the package.
    """
    with checked_out(revision, ROOT) as tree, tempfile.TemporaryDirectory() as name:
        found = []
        for side, package in (("old", tree), ("new", ROOT)):
            path = Path(name, side)
            path.mkdir()
            (path / "fasttrack").symlink_to(package / "fasttrack")
            (path / "bench").symlink_to(ROOT / "bench")
            found.append(Build(side, path))
        old, new = found
        yield old, new


def describe(revision: str) -> str:
    """Return the two builds as one line: commit and subject, and whether the tree was changed."""
    commits = (commit_of(revision, ROOT), "HEAD")
    shown = [git(ROOT, "log", "-1", "--format=%h %s", commit) for commit in commits]
    dirty = ", with uncommitted changes" if git(ROOT, "status", "--porcelain") else ""
    return f"old: {shown[0]}; new: {shown[1]}{dirty}"
