"""Clips of sign language corpora: manifests, labels, phonology, and the rooms that find, check, read and batch them."""
