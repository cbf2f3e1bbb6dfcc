"""`fasttrack demo`, run as on a machine without account and network, and the wheel it ships in."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest
from support.late import need
from support.runs import HANG_GUARD_S, journal_rows, offline_dirs, run_script, wandb_rows

from fasttrack.journal.reader import read_finish, read_header
from fasttrack.journal.run_directory import segments

need("sklearn", "the demo's digits come with scikit-learn")
need("matplotlib", "the demo draws a picture")

ROOT = Path(__file__).parents[2]
EPOCHS = 2
STEPS = EPOCHS * 23  # 1437 digits in batches of 64
SCRIPT = Path(sys.executable).with_name("fasttrack")
PROGRAM = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-m", "fasttrack"]
OURS = ("WANDB_", "SLURM_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_", "TORCHELASTIC_")


@dataclass(frozen=True)
class Demo:
    """What one demo left."""

    base: Path
    stdout: str
    stderr: str

    @property
    def run_id(self) -> str:
        """The id of the one run that there is."""
        (directory,) = (self.base / "wandb" / "fasttrack").iterdir()
        return directory.name

    def line(self, topic: str) -> str:
        """What the report says of a topic."""
        (text,) = re.findall(rf"^{topic} +(.*)$", self.stdout, re.MULTILINE)
        return str(text)


def newcomers_environment(base: Path) -> dict[str, str]:
    """Return the environment of somebody who has never used W&B nor activated an environment."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(OURS)}
    places = kept["PATH"].split(os.pathsep)
    elsewhere = [place for place in places if not (Path(place) / "fasttrack").exists()]
    return kept | {"HOME": str(base), "PATH": os.pathsep.join(elsewhere)}


def run_demo(base: Path, *arguments: str, **variables: str) -> Demo:
    """Run `fasttrack demo` in `base`, as on a machine where W&B has never been used."""
    result = subprocess.run(
        [*PROGRAM, "demo", "--epochs", str(EPOCHS), *arguments],
        cwd=base,
        env=newcomers_environment(base) | variables,
        capture_output=True,
        text=True,
        timeout=HANG_GUARD_S,
    )
    assert result.returncode == 0, result.stderr
    return Demo(base, result.stdout, result.stderr)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """One demo with its defaults, but for fewer epochs."""
    return run_demo(tmp_path_factory.mktemp("demo"))


def test_demo_tracks_a_whole_run_offline(demo: Demo) -> None:
    """Every fifth step, every evaluation, and the same in W&B's offline file."""
    rows = journal_rows(demo.base, demo.run_id)
    (segment,) = segments(demo.base / "wandb" / "fasttrack" / demo.run_id)
    (directory,) = offline_dirs(demo.base)
    finish = read_finish(segment)

    header = read_header(segment)
    trained = [row for row in rows if "loss/total" in row.values]
    evaluated = [row for row in rows if "eval/accuracy" in row.values]
    assert [row.step for row in trained] == list(range(0, STEPS, 5))
    assert [row.step for row in evaluated] == [23, 46]
    assert evaluated[-1].values["eval/accuracy"] > 0.8
    assert trained[-1].values.keys() >= {"train/lr", "train/grad_norm", "perf/steps_per_sec"}
    assert header is not None
    assert header.mode == "offline"
    assert finish is not None
    assert finish.exit_code == 0
    assert len([row for row in wandb_rows(directory) if "loss/total" in row]) == len(trained)


def test_demo_tells_where_the_run_is_what_it_cost_and_what_to_do(demo: Demo) -> None:
    """Every path that it names exists, and its numbers are those of this run."""
    run_id = demo.run_id
    (directory,) = offline_dirs(demo.base)
    numbers = re.fullmatch(
        r"([\d.]+) us a step, ([\d.]+)% of a step's ([\d.]+) ms .*", demo.line("cost")
    )
    assert numbers is not None
    cost_us, share, step_ms = map(float, numbers.groups())

    assert demo.line("run").endswith(f", id {run_id}")
    rows = len(journal_rows(demo.base, run_id))
    journal = demo.base / "wandb" / "fasttrack" / run_id
    assert demo.line("journal") == f"{journal}, {rows} rows"
    offline = re.fullmatch(r"offline, for '(\S*)wandb sync (.*)'", demo.line("W&B"))
    assert offline is not None
    assert (shutil.which(f"{offline[1]}wandb") is not None, offline[2]) == (True, str(directory))
    assert cost_us / (step_ms * 1000) * 100 == pytest.approx(share, abs=0.02)
    assert 0 < cost_us < step_ms * 1000
    program = shlex.join(PROGRAM)
    assert demo.line("look") == f"{program} show {run_id}"
    assert demo.line("draw") == f"{program} plot {run_id}"
    assert demo.line("upload") == f"{program} sync {run_id}"


@pytest.mark.parametrize(("topic", "said"), [("look", "eval/accuracy"), ("draw", ".png")])
def test_what_the_demo_says_to_type_works_as_printed(demo: Demo, topic: str, said: str) -> None:
    """A newcomer who has called it by its path has no `fasttrack` on the PATH."""
    environment = newcomers_environment(demo.base)
    result = subprocess.run(
        ["/bin/sh", "-c", demo.line(topic)],
        cwd=demo.base,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG_GUARD_S,
    )
    (demo.base / f"{demo.run_id}.png").unlink(missing_ok=True)

    assert (result.returncode, result.stderr) == (0, "")
    assert said in result.stdout
    assert shutil.which("fasttrack", path=environment["PATH"]) is None


def test_demo_ends_with_a_picture_and_leaves_nothing_else(demo: Demo) -> None:
    """A PNG that a README can show; checkpoints were temporary."""
    picture = demo.base / "fasttrack-demo.png"
    head = picture.read_bytes()[:24]

    assert demo.stdout.splitlines()[-1].split()[1] == f"{picture},"
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:])[0] == 1600
    visible = {path.name for path in demo.base.iterdir() if not path.name.startswith(".")}
    assert visible == {"fasttrack-demo.png", "wandb"}


def test_demo_prints_plain_lines_where_stdout_is_no_terminal(demo: Demo) -> None:
    """No bar and no escape sequences in a job's log."""
    assert (
        re.findall(r"^epoch \d/2: accuracy 0\.\d{4}$", demo.stdout, re.MULTILINE)
        == (demo.stdout.splitlines()[:EPOCHS])
    )
    assert "\x1b" not in demo.stdout + demo.stderr


def test_demo_on_another_rank_trains_in_silence(tmp_path: Path) -> None:
    """Under srun or torchrun every rank runs it; only the main one records and reports."""
    other = run_demo(tmp_path, "--epochs", "1", RANK="1", WORLD_SIZE="2")

    assert other.stdout + other.stderr == ""
    assert not (tmp_path / "wandb").exists()
    assert not (tmp_path / "fasttrack-demo.png").exists()


@pytest.mark.parametrize("missing", ["sklearn", "matplotlib"])
def test_missing_extra_is_one_line_before_any_training(tmp_path: Path, missing: str) -> None:
    """It says what to install, and nothing is written."""
    source = """
        import sys
        from fasttrack.cli import main

        sys.modules[sys.argv.pop()] = None
        sys.argv[1:] = ["demo"]
        main()
    """

    result = run_script(source, missing, check=False, fresh=True)

    assert result.returncode == 1
    assert "pip install 'fasttrack[examples]'" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "wandb").exists()


def test_example_without_its_extra_says_in_one_line_which_one(tmp_path: Path) -> None:
    """Who has copied it knows what to install."""
    source = """
        import runpy, sys

        sys.modules["sklearn"] = None
        runpy.run_path(sys.argv.pop(), run_name="__main__")
    """

    result = run_script(source, str(ROOT / "examples" / "digits.py"), check=False, fresh=True)

    assert (result.returncode, result.stdout) == (1, "")
    assert "pip install 'fasttrack[examples]'" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "wandb").exists()


def test_demo_whose_run_goes_nowhere_says_nothing_of_uploads(tmp_path: Path, demo: Demo) -> None:
    """The journal is all there is, and all that is needed to look at it."""
    home = str(demo.base)  # where matplotlib has its cache by now
    alone = run_demo(tmp_path, "--epochs", "1", FASTTRACK_BACKENDS="none", HOME=home)

    assert "upload" not in alone.stdout
    assert "W&B" not in alone.stdout
    assert alone.line("look").endswith(f"show {alone.run_id}")
    assert offline_dirs(tmp_path) == []


def test_wheel_built_from_the_sdist_has_every_module_and_the_examples(tmp_path: Path) -> None:
    """A package that pyproject.toml's list forgets would be missing in what users install."""
    pytest.importorskip("setuptools", minversion="77", reason="older ones cannot build this")
    build = "from setuptools.build_meta import *; import sys; print(eval(sys.argv[1])(sys.argv[2]))"
    tree = tmp_path / "tree"
    for folder in ("fasttrack", "examples"):
        copytree(ROOT / folder, tree / folder, ignore=ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        copy(ROOT / file, tree)

    def make(what: str, where: Path) -> Path:
        command = [sys.executable, "-c", build, what, str(tmp_path)]
        result = subprocess.run(command, cwd=where, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return tmp_path / result.stdout.splitlines()[-1]

    with tarfile.open(make("build_sdist", tree)) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    with zipfile.ZipFile(make("build_wheel", source)) as wheel:
        packed = {name for name in wheel.namelist() if name.endswith((".py", "py.typed"))}
        digits = wheel.read("fasttrack/examples/digits.py")

    ours = {str(path.relative_to(tree)) for path in (tree / "fasttrack").rglob("*.py")}
    examples = {f"fasttrack/{path.relative_to(tree)}" for path in tree.glob("examples/*.py")}
    assert packed == ours | examples | {"fasttrack/py.typed"}
    assert digits == (ROOT / "examples" / "digits.py").read_bytes()
