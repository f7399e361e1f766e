"""3D convolutional encoders."""
