"""Every exception that fasttrack has, drawn whole.

    FasttrackError
    ├── ConfigurationError (also a ValueError)   an argument or environment variable is wrong
    ├── DirectoryError     (also an OSError)     the run directory cannot be written
    ├── RunNotFoundError                         no run on disk is meant, or more than one
    ├── RunUnreadableError (also an OSError)     a run on disk cannot be read
    ├── ValueRefusedError                        a value that was logged is not one real number
    ├── NvmlUnavailableError                     NVIDIA's management library does not start
    └── BackendError                             a destination of delivery:
        ├── BackendUnavailableError              it could not be opened
        ├── BackendLostError                     it was open and takes no more rows
        │   └── UnprovenError                    what it took is not proven to be there
        └── ArtifactRefusedError                 it does not take an artifact

The constructor raises the first two and, where delivery cannot be started, the base; the functions
of `fasttrack.runs` the next two. The others never leave fasttrack: they become counts and warnings.
"""

from __future__ import annotations


class FasttrackError(Exception):
    """Any error that fasttrack raises on purpose."""


class ConfigurationError(FasttrackError, ValueError):
    """An argument or environment variable is wrong; the message names it and the fix."""


class DirectoryError(FasttrackError, OSError):
    """The directory for run files cannot be created or written."""


class RunNotFoundError(FasttrackError):
    """The run that was asked for is not there, or is not the only one that is meant."""


class RunUnreadableError(FasttrackError, OSError):
    """The run is there, and the system does not let us read it; the message says why."""


class ValueRefusedError(FasttrackError):
    """A value cannot be logged; the message says why and what to pass."""


class NvmlUnavailableError(FasttrackError):
    """NVIDIA's management library is not installed, or does not start."""


class BackendError(FasttrackError):
    """A destination of delivery does not do what was asked of it."""


class BackendUnavailableError(BackendError):
    """The backend could not be opened.

    Attributes:
        final: whether trying again will not help.
        network: whether the destination was not reached at all.
        local: whether it is a program on this machine that failed, and may not the next time.
    """

    def __init__(
        self, reason: str, *, final: bool = False, network: bool = False, local: bool = False
    ) -> None:
        """Say why, in words for the user."""
        super().__init__(reason)
        self.final = final
        self.network = network
        self.local = local


class BackendLostError(BackendError):
    """An open backend takes no more rows; what it has not proven must be replayed."""


class UnprovenError(BackendLostError):
    """Whether the backend has every row is not proven, and another session now would not help."""


class ArtifactRefusedError(BackendError):
    """The backend did not take an artifact, and says why."""
