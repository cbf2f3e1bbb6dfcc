"""TensorBoard: event files on this machine's disk."""
