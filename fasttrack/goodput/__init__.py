"""How much of a run's time made steps whose result stayed, attempt by attempt.

    goodput = read_goodput(run.segments)
    goodput.share, goodput.lost_steps, goodput.restart_s

Made of the journal alone; loads neither torch nor numpy.
"""

from fasttrack.goodput.figures import AttemptGoodput, Goodput
from fasttrack.goodput.reading import read_goodput

__all__ = ["AttemptGoodput", "Goodput", "read_goodput"]
