"""What the instruments share: statistics, processes, the workload, the ways of logging it."""
