"""Configurations and checkpoints on their way to W&B. No torch, no wandb."""
