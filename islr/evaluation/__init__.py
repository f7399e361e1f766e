"""Fine-tuning, evaluation, metrics, and the typed records in which numbers are kept."""
