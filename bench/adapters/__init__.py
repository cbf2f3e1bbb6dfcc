"""What adapters cost beside their frameworks' own W&B integration: `python -m bench.adapters`."""
