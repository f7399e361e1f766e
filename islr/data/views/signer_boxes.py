"""Boxes around a signer's hands and face, in the picture that a training view cropped from a clip.

Shapes: T frames of the crop, P = 3 parts.
"""

import numpy as np

from islr.data.poses.pose import LEFT_HAND, RIGHT_HAND, Pose, fill_hand_gaps
from islr.data.views.views import CroppedClip

FACE = slice(0, 11)  # nose, eyes, ears, mouth
PARTS = (LEFT_HAND, RIGHT_HAND, FACE)
# Share of the longer side added on each side: hands are wider than their joints, faces reach beyond eyes and mouth.
MARGINS = (0.15, 0.15, 0.25)


def signer_boxes(pose: Pose, crop: CroppedClip, length: int) -> np.ndarray:
    """Return boxes of the left hand, the right hand and the face in each frame of a crop.

    Short gaps of a hand are filled as for pose encoders, since trackers lose fast hands.

    Args:
        pose: Of the clip's range. Its frames may be more or fewer than the video's, evenly spread over the same time.
        crop: The training view's frames.
        length: Frames in the clip's range.

    Returns:
        float64 `[T, P, 4]`: left, top, right, bottom in 0..1 of the cropped picture. A box may reach beyond it, and is
        all 0 where no point of the part was detected.
    """
    points, confidence = fill_hand_gaps(pose.keypoints[:, :, :2], pose.confidences)
    place = (crop.indices + 0.5) * len(pose) / length - 0.5
    rows = np.clip(np.rint(place).astype(np.int64), 0, len(pose) - 1)
    left, top, right, bottom = crop.box
    where = (points[rows].astype(np.float64) - (left, top)) / (right - left, bottom - top)  # [T, 75, 2]
    if crop.flipped:
        where[..., 0] = 1 - where[..., 0]
    boxes = np.zeros((len(rows), len(PARTS), 4))
    for number, (part, margin) in enumerate(zip(PARTS, MARGINS, strict=True)):
        detected = (confidence[rows, part] > 0)[..., None]  # [T, K, 1]
        low = np.where(detected, where[:, part], np.inf).min(axis=1)  # [T, 2]
        high = np.where(detected, where[:, part], -np.inf).max(axis=1)
        known = detected.any(axis=(1, 2))
        low, high = low[known], high[known]
        border = margin * (high - low).max(axis=1, keepdims=True)
        boxes[known, number] = np.concatenate([low - border, high + border], axis=1)
    return boxes
