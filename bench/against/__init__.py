"""What a change costs or saves: two builds by turns in one session: `python -m bench.against`."""
