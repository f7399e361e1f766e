"""Multiscale vision transformers."""
