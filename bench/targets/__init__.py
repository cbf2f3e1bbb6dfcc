"""What fasttrack promises to cost, target by target, measured: `python -m bench.targets`."""
