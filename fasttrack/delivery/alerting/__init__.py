"""Alerts at work: watch a run and its process, keep what was found, tell people."""
