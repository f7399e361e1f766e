"""What a frozen representation knows: linear probes of phonological features, and the controls they need."""
