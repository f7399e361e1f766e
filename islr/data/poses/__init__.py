"""Poses: the canonical format, readers of foreign formats, and extraction with MediaPipe."""
