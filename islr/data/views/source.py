"""The interface between views and clips: one clip, decoded on demand."""

from typing import Protocol

import numpy as np

from islr.data.manifest import Clip
from islr.data.poses.pose import Pose


class ClipSource(Protocol):
    """One clip of a corpus.

    Attributes:
        clip: The manifest row.
        fps: Frames per second of the file.
    """

    clip: Clip
    fps: float

    @property
    def length(self) -> int:
        """Frames in the clip's range (counted by decoding, never from the header)."""

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return the frames at `indices` of the clip's range: uint8 `[n, H, W, 3]`, RGB, upright.

        Raises:
            DecodeError: The file cannot give those frames.
        """

    @property
    def has_pose(self) -> bool:
        """Whether the manifest names a pose file for the clip."""

    def pose(self) -> Pose:
        """Return the clip's keypoints, over the clip's range.

        Raises:
            DecodeError: The clip has no pose file, or it cannot be read.
        """
