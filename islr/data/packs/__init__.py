"""Packs: the clips of a corpus in a few large files that are readable at any frame."""
