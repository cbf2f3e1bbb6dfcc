"""The smallest training loop with the tracker: `python examples/minimal.py`."""

import torch

from fasttrack import ExperimentTracker

model = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

with ExperimentTracker(project="fasttrack-examples") as tracker:
    for step in range(200):
        inputs = torch.randn(64, 8)
        loss = torch.nn.functional.mse_loss(model(inputs), inputs.sum(dim=1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tracker.log_training_step(loss, step, batch_size=64, optimizer=optimizer, model=model)
