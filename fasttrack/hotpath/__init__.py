"""Code that runs on the caller's thread, inside the training loop: microseconds, never waits."""
