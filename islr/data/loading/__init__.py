"""Batches of clips in a deterministic order, made by worker processes."""
