"""Recognition: accuracy, signers, calibration and confusions of the scored models."""
