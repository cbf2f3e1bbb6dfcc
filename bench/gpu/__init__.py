"""What fasttrack costs a training step on a GPU: `python -m bench.gpu`."""
