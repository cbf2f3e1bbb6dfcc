"""Code that runs on the worker thread: may wait for the device, holds the GIL in short bursts."""
