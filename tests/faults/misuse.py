"""Garbage arguments, tampered journals, and checkpoints that change under our hands."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from faults.checkpoints import KINDS, contents_of
from faults.rig import Scenario
from faults.rows import ID

if TYPE_CHECKING:
    from random import Random

    from faults.rig import Bench

_CALLS = 10_000


def _garbage(bench: Bench) -> None:
    """Make thousands of calls with garbage; nothing raises, and the good rows arrive."""
    mode = "offline" if bench.seed % 2 else "online"
    options = {"upload_timeout_s": 60.0}
    trainer = bench.train(mode=mode, garbage=_CALLS, options=options)
    trainer.await_end(300.0)
    raised = trainer.notes("raised")
    bench.require(not raised, f"{len(raised)} calls raised: {raised[:5]}")
    slow = trainer.notes("slow")
    bench.require(not slow, f"{len(slow)} calls took long: {slow[:5]}")
    bench.fault_is_over()


def _tamper(bench: Bench) -> None:
    """Change some lines of a finished run's journal; all the others arrive."""
    trainer = bench.train(mode="offline")
    trainer.await_end()
    bench.await_nobody()
    (segment,) = trainer.run_dir.glob("segment-*.jsonl")
    (trainer.run_dir / "cursor.json").unlink(missing_ok=True)
    lines = segment.read_bytes().split(b"\n")[:-1]
    for _ in range(bench.random.randint(1, 8)):
        place = bench.random.randrange(1, len(lines))  # a run without its header is another matter
        entry = json.loads(lines[place]) if lines[place].startswith(b"{") else {}
        if entry.get("kind") == "row" and ID in entry["values"]:
            bench.excused.add(int(entry["values"][ID]))
        lines[place] = _changed(lines[place], entry, bench.random)
    segment.write_bytes(b"\n".join([*lines, b""]))
    for command in (("show",), ("export", "--format=csv")):
        result = bench.command(*command, bench.inside(trainer.run_dir))
        said = f"{command} ended with {result.returncode}: {result.stderr[-500:]}"
        bench.require(result.returncode == 0, said)
    bench.fault_is_over()


def _changed(line: bytes, entry: dict[str, Any], rng: Random) -> bytes:
    how = rng.choice(("cut", "flip", "field", "type", "other", "empty"))
    if how == "field" and entry:
        del entry[rng.choice(sorted(entry))]
        return json.dumps(entry).encode()
    if how == "type" and entry:
        entry[rng.choice(sorted(entry))] = rng.choice((None, [], {}, "x", -1, 1.5, True, [[]]))
        return json.dumps(entry).encode()
    if how == "flip":
        at = rng.randrange(max(1, len(line)))
        return (line[:at] + bytes([rng.randrange(256)]) + line[at + 1 :]).replace(b"\n", b"")
    if how == "other":
        return rng.choice((b"null", b"[]", b'"row"', b"{}", b'{"kind":"row"}', b"\xff\xfe\0"))
    return b"" if how == "empty" else line[: rng.randrange(max(1, len(line)))]


def _checkpoints(bench: Bench, kind: str) -> None:
    """Save and log checkpoints, and do to the files what trainers do."""
    mode = "offline" if bench.seed % 2 else "online"
    size = bench.random.choice((20_000, 3 * 2**20))
    trainer = bench.train(mode=mode, checkpoints=kind, checkpoint_bytes=size)
    trainer.await_end(120.0)
    bench.fault_is_over()
    bench.settle()
    logged = {note["number"] for note in trainer.notes("checkpoint")}
    arrived: dict[int, int] = {}
    for artifact in bench.server.artifacts:
        if artifact.type == "model" and artifact.state == "COMMITTED":
            (content,) = artifact.files.values()
            number = next((n for n in logged if contents_of(n, bench.seed, size) == content), None)
            if number is None:
                bench.outcome.wrong += 1
                bench.remark(f"{artifact.version} holds what was never logged")
            else:
                arrived[number] = arrived.get(number, 0) + 1
    missing = sorted(logged - arrived.keys())
    bench.outcome.rows += len(logged)
    named = sum(a["delivery"] is not None for a in bench.show(trainer.run_dir)["artifacts"])
    bench.outcome.lost += len(missing)
    bench.outcome.doubled += sum(times > 1 for times in arrived.values())
    if missing:
        bench.remark(f"checkpoints missing: {missing} of {len(logged)} ({named} named)")


SCENARIOS = (
    Scenario(
        name="garbage-arguments",
        family="garbage",
        act=_garbage,
        promise=f"{_CALLS:,} calls with garbage: none raises or hangs, the good rows arrive",
    ),
    Scenario(
        name="journal-tampered",
        family="tampered",
        act=_tamper,
        promise="each line that is whole arrives once; the others are named",
    ),
    *(
        Scenario(
            name=f"checkpoint-{kind}",
            family="checkpoints",
            act=partial(_checkpoints, kind=kind),
            promise="each version arrives with what was logged",
            rows=120,
            fast=int(kind == "overwritten"),
        )
        for kind in KINDS
    ),
)
