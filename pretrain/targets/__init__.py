"""What recipes predict: gradients, visual tokens, self-distillation."""
