"""`python -m fasttrack` is the command line."""

from __future__ import annotations

from fasttrack.cli import main

if __name__ == "__main__":
    main()
