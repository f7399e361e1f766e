"""Frozen features of clips: the encoders and files they come from, and the caches of a run."""
