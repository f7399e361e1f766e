"""Training: the engine (`Trainer`), the run harness, optimiser, checkpoints, tracking, and what many ranks share."""
