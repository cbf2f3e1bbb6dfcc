"""What ways of logging cost a training loop, beside each other: see compare/__main__.py."""

from __future__ import annotations

from bench.compare.__main__ import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
