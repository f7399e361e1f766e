"""The batched solver of L2-penalised multinomial regression."""
