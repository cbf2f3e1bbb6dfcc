"""What the constructor may raise. After construction nothing is raised into training.

FasttrackError
├── ConfigurationError (also a ValueError)   an argument or environment variable is wrong
└── DirectoryError     (also an OSError)     the run directory cannot be written
"""

from __future__ import annotations


class FasttrackError(Exception):
    """Any error that fasttrack raises on purpose."""


class ConfigurationError(FasttrackError, ValueError):
    """An argument or environment variable is wrong; the message names it and the mend."""


class DirectoryError(FasttrackError, OSError):
    """The directory for run files cannot be created or written."""
