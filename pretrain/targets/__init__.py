"""Targets and losses of the recipes: HOG, codebooks and tokenizers, self-distillation."""
