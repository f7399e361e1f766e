"""Frozen features of clips."""
