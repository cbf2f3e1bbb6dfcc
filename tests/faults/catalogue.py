"""All scenarios, by name."""

from __future__ import annotations

from faults import copies, disk, kills, limits, methods, misuse, network, signals, stops

FAMILIES = (kills, network, stops, disk, limits, signals, methods, copies, misuse)
SCENARIOS = {scenario.name: scenario for family in FAMILIES for scenario in family.SCENARIOS}
