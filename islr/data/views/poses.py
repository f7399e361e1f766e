"""Pose views: resampling in time and augmentation of keypoints, float32 `[T, 75, 3]`."""

import math

import numpy as np
from pydantic import Field

from islr.config import Config
from islr.data.poses.pose import LEFT_HAND, RIGHT_HAND, normalise
from islr.data.views.source import ClipSource


def _mirror() -> np.ndarray:
    """Return the point that each of the 75 points becomes in a mirrored pose."""
    points = np.arange(75)
    pairs = ((1, 4), (2, 5), (3, 6), (7, 8), (9, 10), *((left, left + 1) for left in range(11, 33, 2)))
    for left, right in pairs:  # MediaPipe's 33 body points; those on the middle line stay
        points[left], points[right] = right, left
    points[LEFT_HAND], points[RIGHT_HAND] = np.arange(75)[RIGHT_HAND], np.arange(75)[LEFT_HAND]
    return points


MIRROR = _mirror()
WARP_KNOTS = 4  # a sign has about as many phases: raise, stroke, hold, lower


class PoseAugmentConfig(Config):
    """Training-time augmentation of a pose sequence; magnitudes are in shoulder widths and radians."""

    crop: tuple[float, float] = Field((0.6, 1.0), description="share of the sign's duration, drawn between")
    warp: float = Field(0.0, ge=0, description="standard deviation of the log of the speed along the sign")
    rotation: float = Field(0.15, ge=0, description="standard deviation of the rotation")
    scale: float = Field(0.1, ge=0, description="standard deviation of the scale around 1")
    shear: float = Field(0.1, ge=0, description="standard deviation of the shear")
    shift: float = Field(0.05, ge=0, description="standard deviation of the shift")
    jitter: float = Field(0.005, ge=0, description="standard deviation of each joint's own noise")
    drop_hand: float = Field(0.1, ge=0, le=1, description="probability of hiding a hand; never both")
    mirror: float = Field(0.0, ge=0, le=1, description="share of clips mirrored: swaps the signer's handedness")


def resample_pose(pose: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Interpolate `[T, 75, 3]` linearly at fractional frame positions.

    A joint that is missing in one of the two frames keeps its value of the earlier frame instead of being mixed with
    an absent point; its confidence is the smaller of the two.
    """
    low = np.clip(np.floor(positions).astype(np.int64), 0, len(pose) - 1)
    high = np.minimum(low + 1, len(pose) - 1)
    part = np.clip(positions - low, 0, 1).astype(np.float32)[:, None, None]
    before, after = pose[low], pose[high]
    out = before * (1 - part) + after * part
    absent = (before[..., 2] == 0) | (after[..., 2] == 0)
    out[..., 2] = np.minimum(before[..., 2], after[..., 2])
    out[absent] = before[absent]
    return out.astype(np.float32)


def augment_pose(pose: np.ndarray, config: PoseAugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Apply an affine map, joint jitter, a dropped hand and a mirror to a normalised pose `[T, 75, 3]`."""
    out = pose.copy()
    angle = rng.normal(0, config.rotation)
    scale = 1 + rng.normal(0, config.scale)
    shear = rng.normal(0, config.shear)
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = scale * np.array([[cos, -sin], [sin, cos]]) @ np.array([[1.0, shear], [0.0, 1.0]])
    shift = rng.normal(0, config.shift, 2)
    out[..., :2] = out[..., :2] @ matrix.T.astype(np.float32) + shift.astype(np.float32)
    out[..., :2] += rng.normal(0, config.jitter, out[..., :2].shape).astype(np.float32)
    dropped = rng.random(2) < config.drop_hand
    if not dropped.all():  # without any hand no sign is left
        for hand, drop in zip((LEFT_HAND, RIGHT_HAND), dropped, strict=True):
            if drop:
                out[:, hand, 2] = 0
    if rng.random() < config.mirror:
        out = out[:, MIRROR]
        out[..., 0] *= -1
    out[..., :2] *= out[..., 2:] > 0
    return out


def warped_times(frames: int, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Return rising times from 0 to 1, `[frames]`; the log of their speed is linear between normal draws."""
    knots = np.linspace(0, 1, WARP_KNOTS)
    steps = np.exp(np.interp(np.linspace(0, 1, frames - 1), knots, rng.normal(0, deviation, WARP_KNOTS)))
    return np.concatenate([[0.0], np.cumsum(steps) / max(steps.sum(), np.finfo(float).tiny)])


def augmented_pose(source: ClipSource, frames: int, config: PoseAugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Crop the sign in time, resample it to `frames` and augment it: float32 `[frames, 75, 3]`."""
    pose, _ = normalise(source.pose())
    span = rng.uniform(*config.crop) * (len(pose) - 1)
    start = rng.uniform(0, len(pose) - 1 - span) if len(pose) > 1 else 0.0
    times = span * warped_times(frames, config.warp, rng) if config.warp else np.linspace(0, span, frames)
    return augment_pose(resample_pose(pose, start + times), config, rng)
