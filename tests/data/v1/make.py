"""Make the test data of this folder: runs as the code before the redesign left them on disk.

It must be run with that code, commit aee6726 ("bench/README: what 12 rounds can show"), checked
out somewhere, and with wandb 0.31:

    git worktree add /tmp/old aee6726
    PYTHONPATH=/tmp/old:/tmp/old/tests python tests/data/v1/make.py

A folder holds one run, as it lies below `wandb/`: its journal in `fasttrack/<run id>/` and, for
the first two, W&B's offline run directories. Beside it stand

    server.json      what the server had of the run by then; none: it knew no such run
    expected.json    what the old `fasttrack` said of the run (`runs`, `show`, `export`),
                     and the history that the server had after the old code had delivered the rest

Nothing is edited afterwards: the trainers below are told another identity and another machine
than theirs, so that the files hold no details of where they were made; a check at the end looks.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import fasttrack

try:
    from runs import HANG_GUARD_S, deliver, wait_until
    from wandb_server import WandbServer
except ImportError as error:
    raise SystemExit(f"run it with commit aee6726 and its tests in PYTHONPATH: {error}") from error

HERE = Path(__file__).resolve().parent
OLD = Path(fasttrack.__file__).resolve().parents[1]

# What every trainer below begins with.
PRELUDE = """
import math, os, signal, sys
import fasttrack.tracker as module
from runs import make_tracker

module.identify_trainer = lambda: {
    "pid": 4242,
    "host": "trainer-1",
    "executable": "/usr/bin/python3",
    "argv": ["train.py", "--lr", "0.1"],
    "program": "/home/user/project/train.py",
    "program_relpath": "train.py",
    "cwd": "/home/user/project",
}
module.get_metadata = lambda: {
    "git": {
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "branch": "main",
        "dirty": False,
        "remote": "https://example.com/user/project.git",
    },
    "seeds": None,
    "slurm": None,
    "versions": {"python": "3.11.7", "fasttrack": "0.1.0", "wandb": "0.31.0", "cuda": None},
    "host": {"hostname": "trainer-1", "cpu_count": 8, "gpus": [], "driver": None},
    "environment": {"OMP_NUM_THREADS": "1"},
    "argv": ["train.py", "--lr", "0.1"],
    "world_size": 1,
}
module.make_run_id = lambda: RUN_ID


def log(tracker, steps):
    for step in steps:
        tracker.log_training_step(step / 4, step, 8)


def hold_delivery(tracker):
    os.kill(tracker._delivery._process.pid, signal.SIGSTOP)  # were it killed, it would come again


def die(tracker):
    assert tracker._recorder.wait(30)  # the metadata, which git is asked for
    assert tracker.flush(30)
    os.kill(tracker._delivery._process.pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
"""

OFFLINE_PROVEN = """
with make_tracker(notes="finished in order") as tracker:
    log(tracker, range(20))
"""

OFFLINE_KILLED = """
from runs import wait_until
tracker = make_tracker()
log(tracker, range(15))
wait_until(lambda: tracker.stats().rows_delivered >= 15)
hold_delivery(tracker)
log(tracker, range(15, 18))
die(tracker)
"""

ONLINE_FIRST = """
with make_tracker(mode="online") as tracker:
    log(tracker, range(20))
"""

ONLINE_SECOND = """
tracker = make_tracker(mode="online", resume_id=RUN_ID, tags=None)
hold_delivery(tracker)
log(tracker, range(15, 30))
die(tracker)
"""

ONLINE_INTERRUPTED = """
tracker = make_tracker(mode="online")
log(tracker, range(12))
print("logged", flush=True)
sys.stdin.readline()  # they have arrived
hold_delivery(tracker)
log(tracker, range(12, 22))
die(tracker)
"""

ARTIFACTS_PENDING = """
from pathlib import Path
with make_tracker() as tracker:
    log(tracker, range(5))
    tracker.log_config({"lr": 0.1, "model": {"name": "eo1", "layers": [1, 2]}, "text": "\u00fc"})
    Path("checkpoint").mkdir()
    Path("checkpoint/model.pt").write_bytes(bytes(range(256)) * 12)
    Path("checkpoint/state.txt").write_text("step 4\\n")
    tracker.log_checkpoint("checkpoint", aliases=("latest", "step4"), force=True)
    log(tracker, range(5, 10))
"""

ODD_VALUES = """
tracker = make_tracker(
    name="\u043f\u0440\u043e\u0431\u0430 \u640d\u5931 \U0001f642",
    notes='quotes " and\\nlines',
    config={"lr": 0.1, "nan": math.nan, "\u00fc": ["\u640d\u5931", None, True]},
)
print("hello console \u00fc \U0001f642")
print('"NaN" in a line', file=sys.stderr)
values = (1.5, math.nan, math.inf, -math.inf, -0.0, 1e-320, 1.7e308, 0.1 + 0.2)
for step, value in enumerate(values):
    tracker.log_training_step(value, step)
tracker.log_metrics({"null": 1.5, "NaN": 2, "Infinity": math.inf, "-Infinity": -math.inf}, 8)
tracker.log_metrics({"null": math.nan}, 9)
tracker.log_metrics({"great": 2**63 - 1, "least": -(2**63), "yes": True}, 10)
tracker.log_metrics({"\u043f\u043e\u0442\u0435\u0440\u044f": 0.5, "loss/\u640d\u5931": 1}, 10)
tracker.log_metrics({"\U0001f642": 2}, 10)
tracker.log_metrics({"attempt": 7, "time": 8.5}, 4)  # back, and named like columns
tracker.log_metrics({"a": 1}, 4)
tracker.log_metrics({"a": 2}, 4)
tracker.log_metrics({"a": 3}, 40)
tracker.finish(exit_code=3)
"""

TORN_HEADER_FIRST = """
tracker = make_tracker()
hold_delivery(tracker)
log(tracker, range(8))
die(tracker)
"""

TORN_HEADER_LAST = """
tracker = make_tracker(resume_id=RUN_ID, tags=None)
log(tracker, range(5, 11))
tracker.finish(exit_code=143, preempting=True)
"""

# The files shall be old wherever they are read, also where the clock is not set right.
CLOCK = """
import os, time
now, shift_s = time.time, float(os.environ["CLOCK_SHIFT_S"])
time.time = lambda: now() + shift_s
"""
BEGIN_S = 1_750_000_000.0
LATER_S = 86_400.0  # then nothing is taken for still running, and rows are delivered late


@dataclass
class Place:
    """Where one run is made: a directory of its own, the parent of `wandb/`."""

    base: Path
    run_id: str
    server: WandbServer
    shift_s: float
    """Of the clock that the old code sees."""

    @property
    def run_dir(self) -> Path:
        """Its journal's directory."""
        return self.base / "wandb" / "fasttrack" / self.run_id

    def environment(self) -> dict[str, str]:
        """Return what the old code is run with: nothing of this machine, and a server at hand."""
        home = self.base / "home"
        home.mkdir(exist_ok=True)
        (home / "sitecustomize.py").write_text(CLOCK)
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{home}{os.pathsep}{OLD}{os.pathsep}{OLD / 'tests'}",
            "CLOCK_SHIFT_S": str(self.shift_s),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LANG": "C.UTF-8",
            "HOME": str(home),
            "OMP_NUM_THREADS": "1",
            "WANDB_DIR": str(self.base),
            "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
            "WANDB_X_DISABLE_META": "true",
            "WANDB_X_DISABLE_MACHINE_INFO": "true",
            "WANDB_X_DISABLE_STATS": "true",
            "WANDB_X_SAVE_REQUIREMENTS": "false",
            **self.server.env(),
        }

    def start(self, script: str) -> subprocess.Popen[str]:
        """Start a trainer."""
        return subprocess.Popen(
            [sys.executable, "-c", f"RUN_ID = {self.run_id!r}\n{PRELUDE}\n{script}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.base,
            env=self.environment(),
        )

    def train(self, script: str) -> None:
        """Run a trainer to its end."""
        process = self.start(script)
        process.communicate(timeout=HANG_GUARD_S)
        assert process.returncode in (0, -9), process.returncode
        wait_until(lambda: not self._courier_at_work())

    def _courier_at_work(self) -> bool:
        found = subprocess.run(["pgrep", "-f", str(self.base)], capture_output=True, text=True)
        return bool(found.stdout.split())

    def ask(self, *arguments: str) -> str:
        """Return what the old `fasttrack` prints."""
        result = subprocess.run(
            [sys.executable, "-m", "fasttrack", *arguments, "--dir", str(self.base)],
            capture_output=True,
            check=True,
            cwd=self.base,
            env=self.environment(),
        )
        return result.stdout.decode()

    def deliver(self) -> list[dict[str, Any]]:
        """Deliver the run by hand; return the server's history, without the client's clocks."""
        os.environ.update(self.environment())
        os.chdir(self.base)  # another version of the package may lie in the present directory
        assert deliver(self.run_dir)["delivered"]
        history = self.server.runs[self.run_id].history
        clocks = ("_runtime", "_timestamp")
        return [{k: v for k, v in row.items() if k not in clocks} for row in history]


def settle(server: WandbServer, run_id: str) -> None:
    """Wait until a killed delivery's wandb-core, which lives on for a moment, sends no more."""
    seen, since = -1, time.monotonic()
    while time.monotonic() - since < 5.0:
        now = server.runs[run_id].history_line_count
        if now != seen:
            seen, since = now, time.monotonic()
        time.sleep(0.1)


def offline_proven(place: Place) -> None:
    """Finished in order; all rows proven in an offline directory."""
    place.train(OFFLINE_PROVEN)


def offline_killed(place: Place) -> None:
    """Trainer and delivery killed: a torn last line, no finish, an offline directory left open."""
    place.train(OFFLINE_KILLED)
    segment = place.run_dir / "segment-0001.jsonl"
    last = segment.read_bytes().splitlines(keepends=True)[-1]
    with segment.open("ab") as file:
        file.write(last[: len(last) // 2])


def online_resumed(place: Place) -> None:
    """One attempt proven at the server, a second one undelivered."""
    place.train(ONLINE_FIRST)
    place.train(ONLINE_SECOND)


def online_interrupted(place: Place) -> None:
    """Delivery killed when half of the rows had arrived; more were logged after that."""
    process = place.start(ONLINE_INTERRUPTED)
    wait_until(  # W&B closes a row only when the next one comes: the last stays open
        lambda: (
            place.run_id in (runs := place.server.runs)
            and runs[place.run_id].history_line_count >= 11
        )
    )
    process.communicate("go on\n", timeout=HANG_GUARD_S)
    settle(place.server, place.run_id)


def artifacts_pending(place: Place) -> None:
    """Offline, with a configuration and a checkpoint that wait for an upload."""
    place.train(ARTIFACTS_PENDING)


def odd_values(place: Place) -> None:
    """Values, names and steps as odd as they may be; failed; copied before it was delivered."""
    place.train(ODD_VALUES)
    (place.run_dir / "cursor.json").unlink()


def torn_header(place: Place) -> None:
    """The second of three attempts died over its header; the third was preempted."""
    place.train(TORN_HEADER_FIRST)
    header = (place.run_dir / "segment-0001.jsonl").read_bytes().splitlines()[0]
    torn = header.replace(b'"attempt":1', b'"attempt":2')[: len(header) // 3]
    (place.run_dir / "segment-0002.jsonl").write_bytes(torn)
    place.train(TORN_HEADER_LAST)


SCENARIOS: tuple[Callable[[Place], None], ...] = (
    offline_proven,
    offline_killed,
    online_resumed,
    online_interrupted,
    artifacts_pending,
    odd_values,
    torn_header,
)


def copy_out(place: Place, target: Path, *, offline: bool) -> None:
    """Keep of a run what a later version reads; W&B's own directories where `offline` says so."""
    shutil.rmtree(target, ignore_errors=True)
    unneeded = shutil.ignore_patterns("delivery.log", "courier.lock", "*.tmp")
    shutil.copytree(place.run_dir, target / "fasttrack" / place.run_id, ignore=unneeded)
    for directory in (place.base / "wandb").glob("offline-run-*") if offline else ():
        (target / directory.name).mkdir()
        for file in directory.glob("run-*.wandb"):
            shutil.copy(file, target / directory.name)


def server_state(place: Place) -> dict[str, Any] | None:
    """Return what the server has of the run, for `support.server_state`; None: nothing."""
    run = place.server.runs.get(place.run_id)
    if run is None:
        return None
    left_out = ("lock", "files", "uploaded")
    return {f.name: getattr(run, f.name) for f in fields(run) if f.name not in left_out}


def answers(place: Place) -> dict[str, Any]:
    """Return what the old command says of the run."""
    run_id = place.run_id
    told = {
        "runs": json.loads(place.ask("runs", "--json")),
        "show": json.loads(place.ask("show", run_id, "--json")),
        "json": json.loads(place.ask("export", run_id, "--format", "json")),
        "csv": place.ask("export", run_id, "--format", "csv").splitlines(),
    }
    for facts in (*told["runs"], told["show"]):
        del facts["directory"]
    return told


def check_anonymous(folder: Path) -> None:
    """Fail where a file tells something of the machine that it was made on."""
    secrets = {socket.gethostname(), str(OLD), str(HERE), sys.prefix, tempfile.gettempdir()}
    secrets |= {str(Path.home()), getpass.getuser()}
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".py":
            content = path.read_bytes()
            for secret in secrets:
                assert secret.encode() not in content, f"{path} holds {secret!r}"


def main() -> None:
    """Make all of it anew."""
    for scenario in SCENARIOS:
        name = scenario.__name__
        with tempfile.TemporaryDirectory() as scratch, WandbServer() as server:
            shift_s = BEGIN_S - time.time()
            place = Place(Path(scratch), f"v1{name.replace('_', '')}", server, shift_s)
            scenario(place)
            target = HERE / name
            copy_out(place, target, offline=scenario in (offline_proven, offline_killed))
            if (state := server_state(place)) is not None:
                write_json(target / "server.json", state)
            place.shift_s += LATER_S
            expected = answers(place)
            expected["delivered"] = place.deliver()
            write_json(target / "expected.json", expected)
            os.chdir(HERE)
        print(f"{name}: {sum(f.stat().st_size for f in target.rglob('*') if f.is_file())} bytes")
    check_anonymous(HERE)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write `value`; its rows stand on a line each, for people and for diffs."""
    lines = []
    for key, part in value.items():
        texts = [json.dumps(item, ensure_ascii=False) for item in part] if rows_of(part) else None
        text = json.dumps(part, ensure_ascii=False)
        lines.append(f'"{key}": ' + (text if texts is None else "[\n" + ",\n".join(texts) + "]"))
    path.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


def rows_of(part: Any) -> bool:
    """Return whether `part` is a list that is worth a line an item."""
    return isinstance(part, list) and len(part) > 1


if __name__ == "__main__":
    main()
