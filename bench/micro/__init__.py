"""Which part became slower: tight loops over one part each, with `pytest bench`."""
