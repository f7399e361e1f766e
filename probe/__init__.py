"""Linear probes of the phonological features that a frozen representation encodes, and their controls."""
