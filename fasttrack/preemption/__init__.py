"""Being asked to stop: who may ask, and how all ranks stop after the same step."""
