"""What fasttrack adds to a training step, to the microsecond: `python -m bench.overhead`."""
