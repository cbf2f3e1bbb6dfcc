"""`python -m tests.faults`: run scenarios, merge what came out into a file, write the table."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as pytest's pythonpath

from faults.command import main

if __name__ == "__main__":
    sys.exit(main())
