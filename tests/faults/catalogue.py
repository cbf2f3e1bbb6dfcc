"""All scenarios, by name."""

from __future__ import annotations

from faults import kills, network, stops

FAMILIES = (kills, network, stops)
SCENARIOS = {scenario.name: scenario for family in FAMILIES for scenario in family.SCENARIOS}
