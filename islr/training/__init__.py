"""The training loop and what it stands on: optimiser, checkpoints, runtime, tracking."""
