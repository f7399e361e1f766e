"""Graph convolutional encoders of poses."""
