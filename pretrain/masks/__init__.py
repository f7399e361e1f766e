"""Token masks: random ones, and saliency-guided ones over hands, face or motion."""
