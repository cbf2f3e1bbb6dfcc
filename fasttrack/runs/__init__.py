"""A run on disk, as a library: find it, read it, say how it fares. No click, no rich, no torch."""
