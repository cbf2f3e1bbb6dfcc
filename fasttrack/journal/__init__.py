"""The on-disk journal, the border between training and delivery. Knows no torch, no wandb."""
