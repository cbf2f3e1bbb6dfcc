"""What would happen here if a tracker were started now, as a library."""
