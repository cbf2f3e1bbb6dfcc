"""Whether training keeps its pace while a checkpoint is uploaded: `python -m bench.checkpoint`."""
