"""Views of a clip: frame sampling, crops, boxes and augmentation."""
