"""Pixels of a moving signer."""
