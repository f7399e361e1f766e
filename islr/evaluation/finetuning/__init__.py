"""Fine-tuning: its configuration, and the trials among which the selection clips choose."""
