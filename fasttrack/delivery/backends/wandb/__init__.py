"""Weights & Biases: the only folder that imports wandb."""
