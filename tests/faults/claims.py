"""What the product says of a run's delivery, held against what is there.

Only what is said too well counts: "delivered" where a row of the journal is not at the server,
"kept in DIRECTORY" where that directory lacks one, exit code 0 of `fasttrack sync` likewise.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from faults.rows import compare, count_rows

if TYPE_CHECKING:
    from pathlib import Path

    from faults.rig import Bench
    from faults.training import Trainer

_DELIVERED = re.compile(r"rows delivered: ([\d,]+)")
_KEPT = re.compile(r"rows kept: ([\d,]+), in (\S*offline-run-\S+)")
_SAFE = re.compile(r"([\d,]+) rows are safe in ")
_LOST = re.compile(r"([\d,]+) rows? (?:was|were) lost")


def said_lost(said: str) -> int:
    """Return how many rows a trainer said were lost."""
    return max((int(found.replace(",", "")) for found in _LOST.findall(said)), default=0)


def check_trainer(bench: Bench, trainer: Trainer) -> None:
    """Hold a trainer's last words against what is there now, at its end."""
    if trainer.run_id is None:
        return
    said = trainer.said
    for safe in _SAFE.findall(said):
        there = count_rows(trainer.run_dir)
        if there + len(bench.excused) < int(safe.replace(",", "")):
            bench.outcome.said_wrongly += 1
            bench.remark(f"the trainer said that {safe} rows are safe, and there are {there}")
    if _DELIVERED.search(said):
        check_online(bench, trainer.run_dir, "the trainer")
    if _KEPT.search(said):
        check_offline(bench, trainer.run_dir, "the trainer")


def check_status(bench: Bench, run_dir: Path) -> None:
    """Hold what `fasttrack show --json` says against what is there."""
    result = bench.command("show", bench.inside(run_dir), "--json")
    try:
        told = json.loads(result.stdout)
    except ValueError:
        bench.remark(f"show ended with {result.returncode}: {result.stderr[-500:]}")
        bench.outcome.hung += 1
        return
    for name, backend in told["backends"].items():
        proofs = backend["segments"]
        if name != "wandb" or not proofs:
            continue
        if all(segment["server"] for segment in proofs):
            check_online(bench, run_dir, "show")
        elif all(segment["server"] or segment["offline"] for segment in proofs):
            check_offline(bench, run_dir, "show")


def check_online(bench: Bench, run_dir: Path, who: str) -> None:
    """Count it as said wrongly unless the server has the journal's rows, each once."""
    kept = {row.id for row in bench.journal(run_dir)}
    found = [row for row in bench.online(run_dir.name) if row.id in kept]
    counts = compare(kept, found, bench.seed)
    _judge(bench, who, "delivered", counts.clean, counts.lost)


def check_offline(bench: Bench, run_dir: Path, who: str) -> None:
    """Count it as said wrongly unless server and offline directories have the journal's rows."""
    kept = [row.id for row in bench.journal(run_dir)]
    found = [*bench.offline(run_dir.name), *bench.online(run_dir.name)]
    there = {row.id for row in found}
    _judge(bench, who, "kept offline", there >= set(kept), sorted(set(kept) - there))


def _judge(bench: Bench, who: str, word: str, right: bool, lost: list[int]) -> None:
    if not right:
        bench.outcome.said_wrongly += 1
        bench.remark(f"{who} said {word}, which is not so (missing {len(lost)}: {lost[:10]})")
