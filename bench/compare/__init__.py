"""Whole loops, ours beside other trackers': `python -m bench`."""
