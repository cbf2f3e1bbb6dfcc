"""trackio: a database on this machine's disk."""
