"""All scenarios, by name."""

from __future__ import annotations

from faults import copies, disk, kills, methods, network, signals, stops

FAMILIES = (kills, network, stops, disk, signals, methods, copies)
SCENARIOS = {scenario.name: scenario for family in FAMILIES for scenario in family.SCENARIOS}
