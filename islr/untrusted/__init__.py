"""Readers of files that others wrote or that are damaged: whatever their bytes can do is an error with a name."""
