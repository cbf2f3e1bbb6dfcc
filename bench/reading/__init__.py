"""How quickly runs are read: `python -m bench.reading`."""
