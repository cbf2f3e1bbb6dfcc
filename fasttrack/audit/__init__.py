"""The sync audit: what makes the training loop wait for the device. CALLER'S THREAD, on request."""
