"""Runs in a browser: one page, as a file of its own or served while they go on."""
