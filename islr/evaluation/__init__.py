"""Fine-tuning, evaluation, metrics, and the typed records of their numbers."""
