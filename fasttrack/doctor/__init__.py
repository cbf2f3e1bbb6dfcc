"""What would happen here if a tracker were started now, as a library. No click, no rich.

    from fasttrack.doctor import Limits, examine

    problems = [check for check in examine(Limits()) if check.state == "problem"]

Nothing is changed, and nothing takes longer than the limits say.
"""

from __future__ import annotations

from fasttrack.doctor.check import Check, Level, Limits
from fasttrack.doctor.examination import PROBES, examine, judge, without_secrets

__all__ = ["PROBES", "Check", "Level", "Limits", "examine", "judge", "without_secrets"]
