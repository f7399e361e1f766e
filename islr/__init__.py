"""Benchmarking self-supervised video and pose representations on isolated sign language recognition."""

__version__ = "0.1.0"
