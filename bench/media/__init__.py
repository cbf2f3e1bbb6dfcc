"""What a picture costs the caller: `python -m bench.media`."""
