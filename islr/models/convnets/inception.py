"""Widths and momentum of the Inception networks, which I3D and S3D share."""

from collections.abc import Sequence
from typing import Any

NARROW_MOMENTUM = 0.1  # of BatchNorm's running statistics in tiny presets, which train for hundreds of steps, not 1e5

# Widths of the branches of one Inception block: 1x1x1; 1x1x1 then 3x3x3; the same narrower; pooling then 1x1x1.
Branches = tuple[int, int, int, int, int, int]
INCEPTION_STEM = (64, 64, 192)
# GoogLeNet (arXiv 1409.4842 table 1), inflated by I3D (arXiv 1705.07750 figure 3) and separated by S3D.
INCEPTION_BLOCKS: dict[str, Branches] = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}


def inception_widths(width: float) -> tuple[list[int], dict[str, Branches]]:
    """Return the stem and branch widths of an Inception network, `width` times the published ones."""

    def scaled(channels: Sequence[int]) -> list[int]:
        return [max(1, int(width * count)) for count in channels]

    blocks: dict[str, Any] = {name: tuple(scaled(branches)) for name, branches in INCEPTION_BLOCKS.items()}
    return scaled(INCEPTION_STEM), blocks


def block_width(branches: Branches) -> int:
    """Return the width of an Inception block's output: its four branches concatenated."""
    return branches[0] + branches[2] + branches[4] + branches[5]
