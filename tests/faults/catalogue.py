"""All scenarios, by name."""

from __future__ import annotations

from faults import disk, kills, network, stops

FAMILIES = (kills, network, stops, disk)
SCENARIOS = {scenario.name: scenario for family in FAMILIES for scenario in family.SCENARIOS}
