"""The table of the README, from results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from faults.catalogue import SCENARIOS

if TYPE_CHECKING:
    from pathlib import Path

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
COLUMNS = ("rows", "lost", "doubled", "wrong", "hung", "raised", "said_wrongly")
_HEAD = (
    "| scenario | seeds | rows checked | lost | doubled | wrong | hung | raised | "
    "delivered said wrongly | worst recovery s |\n|---|---|---|---|---|---|---|---|---|---|"
)


def make_table(results: dict[str, dict[str, Any]]) -> str:
    """Return the table, one line a scenario, in the catalogue's order."""
    lines = [_HEAD]
    for name, scenario in SCENARIOS.items():
        outcomes = [o for o in results.get(name, {}).values() if not o["skipped"]]
        if not outcomes:
            continue
        sums = " | ".join(f"{sum(o.get(column, 0) for o in outcomes):,}" for column in COLUMNS)
        worst_s = max(o["recovery_s"] for o in outcomes)
        mark = "" if scenario.promised else " (not promised)"
        lines.append(f"| `{name}`{mark} | {len(outcomes)} | {sums} | {worst_s:.1f} |")
    return "\n".join(lines)


def write_table(readme: Path, results: dict[str, dict[str, Any]]) -> None:
    """Replace the table between its two marks."""
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    text = f"{before}{BEGIN}\n{make_table(results)}\n{END}{after}"
    readme.write_text(text, encoding="utf-8")
