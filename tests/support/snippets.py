"""The snippets of the documentation, taken out of its pages and run as they stand there.

A test module makes `Pages` of the files that it answers for. `@pages.runs("some text")` on a test
gives it the one snippet that holds this text; a test that got a snippet and did not run it fails,
and so does the module's test that asks for `pages.not_run()`.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from support.runs import HANG_GUARD_S, TAGS

from fasttrack import ExperimentTracker, Options

ROOT = Path(__file__).parents[2]
RUN = ("python", "bash")  # "text" shows something: a message, a drawing, a tree; "toml" is read
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)

Namespace = dict[str, Any]


@dataclass(eq=False, slots=True)
class Snippet:
    """One block of code, and whether a test has run it."""

    page: Path
    line: int
    """Of its first line of code."""
    language: str
    text: str
    was_run: bool = False

    def __str__(self) -> str:
        """Return where it stands."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def run(self, names: Namespace) -> Namespace:
        """Execute it as Python with `names`, and return them as it left them."""
        assert self.language == "python", str(self)
        self.was_run = True
        lines_before = "\n" * (self.line - 1)  # so that a traceback names the page's line
        exec(compile(lines_before + self.text, str(self.page), "exec"), names)
        return names

    def run_in_shell(self) -> str:
        """Run it in bash, as a user with an activated environment does; return its output."""
        return self._in_shell(self.text)

    def _in_shell(self, text: str) -> str:
        assert self.language == "bash", str(self)
        self.was_run = True
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            capture_output=True,
            text=True,
            timeout=HANG_GUARD_S,
            env={**os.environ, "PATH": path},
        )
        assert result.returncode == 0, f"{self}\n{result.stdout}{result.stderr}"
        return result.stdout

    def run_commands(self) -> dict[str, str]:
        """Run its `fasttrack` commands in this process; return line -> output.

        Each must succeed, but that `fasttrack doctor` may find a problem.
        """
        from fasttrack.cli.app import cli

        assert self.language == "bash", str(self)
        self.was_run = True
        outputs = {}
        for line in self.text.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            assert program == "fasttrack", f"{self}: {line}"
            result = CliRunner().invoke(cli, arguments)
            allowed = (0, 1) if arguments == ["doctor"] else (0,)
            assert result.exit_code in allowed, f"{self}: {line}\n{result.output}"
            outputs[line] = result.output
        return outputs

    def exports(self) -> list[tuple[str, str]]:
        """Return what its lines export, one after another, as the shell understands them."""
        names = re.findall(r"^export (\w+)=.*$", self.text, flags=re.MULTILINE)
        lines = self.text.splitlines()
        assert len(names) == len(lines), str(self)
        echoes = [f'{line}\necho "${name}"' for line, name in zip(lines, names, strict=True)]
        return list(zip(names, self._in_shell("\n".join(echoes)).splitlines(), strict=True))

    def source(self) -> str:
        """Return it, for a test that makes a script of it and runs that."""
        self.was_run = True
        return self.text


class Pages:
    """The pages that one test module answers for, and their snippets."""

    def __init__(self, *paths: Path) -> None:
        """Read them."""
        self.snippets = [snippet for path in paths for snippet in _read(path)]
        self._taken: set[Snippet] = set()

    def runs(self, *texts: str) -> pytest.MarkDecorator:
        """Mark a test that runs the snippets which hold `texts`.

        It gets one as its argument `snippet`, several as `snippets`.
        """
        found = tuple(self._find(text) for text in texts)
        self._taken.update(found)
        where = ", ".join(map(str, found))
        if len(found) == 1:
            return pytest.mark.parametrize("snippet", found, indirect=True, ids=[where])
        return pytest.mark.parametrize("snippets", [found], indirect=True, ids=[where])

    def not_run(self) -> list[str]:
        """Return where a snippet stands that no test runs."""
        return [str(s) for s in self.snippets if s.language in RUN and s not in self._taken]

    def unknown(self) -> list[str]:
        """Return where a block stands of which nobody knows whether it is to be run."""
        return [str(s) for s in self.snippets if s.language not in (*RUN, "text", "toml")]

    def _find(self, text: str) -> Snippet:
        found = [snippet for snippet in self.snippets if text in snippet.text]
        assert len(found) == 1, f"{text!r} stands in {len(found)} snippets: {found}"
        return found[0]


def _read(path: Path) -> list[Snippet]:
    page = path.read_text(encoding="utf-8")
    found = [
        Snippet(path, page.count("\n", 0, match.start(2)) + 1, match[1], match[2])
        for match in _BLOCK.finditer(page)
    ]
    assert page.count("```") == 2 * len(found), f"{path}: a block that is not closed, or indented"
    return found


def missing_links(path: Path) -> list[str]:
    """Return what a page names and the repository does not have: files, and headings of pages."""
    page = path.read_text(encoding="utf-8")
    linked = re.findall(r"\]\((?!https?:)([^)\s]+)\)", page)
    linked += re.findall(r'<img src="([^"]+)"', page)
    named = re.findall(
        r"`((?:examples|fasttrack|bench|slurm|docs|\.github)/[\w./]*(?:\.\w+|\w/))`", page
    )
    missing = [name for name in named if not (ROOT / name).exists()]
    for link in linked:
        file, _, heading = link.partition("#")
        target = (path.parent / file) if file else path
        if not target.exists() or (heading and heading not in _headings(target)):
            missing.append(link)
    return missing


def _headings(path: Path) -> set[str]:
    """Return the names by which GitHub links the headings of a page."""
    lines = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line).strip().lower().replace(" ", "-") for line in lines}


def training_script() -> Namespace:
    """Return the names that the snippets expect of a training script."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train_step() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = model(torch.ones(2, 4)).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return {
        "torch": torch,
        "model": model,
        "optimizer": optimizer,
        "train_step": train_step,
        "config": {"lr": 0.1},
        "tags": TAGS,
        "num_steps": 25,
        "batch_size": 2,
        "step": 0,
        "ExperimentTracker": ExperimentTracker,
        "Options": Options,
    }
