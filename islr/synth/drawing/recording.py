"""What camera and file do to drawn pictures: motion blur, lost resolution, sensor noise.

Legend: T frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from islr.synth.drawing.canvas import add_noise
from islr.synth.drawing.look import Recording
from islr.synth.drawing.projection import Projection

_NOISE_MARGIN = 32  # pixels by which the noise tile is larger than the picture
_LEAST_SMEAR = 1.5  # pixels: less motion than this leaves no smear
_MOST_SMEAR = 0.12  # share of the picture: longer smears look like fog
_HANDS = (slice(33, 54), slice(54, 75))  # of the 75 points
_SLEEVE = 0.35  # share of a hand's size by which the smear reaches beyond its joints


def record(
    pictures: Iterable[np.ndarray], shot: Projection, recording: Recording, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield drawn pictures, uint8 [size, size, 3], as camera and file record them."""
    size = shot.size
    side = size + _NOISE_MARGIN
    tile = np.round(rng.standard_normal((side, side, 3), dtype=np.float32) * recording.noise).astype(np.int16)
    offsets = rng.integers(0, _NOISE_MARGIN + 1, (len(shot.points), 2)).tolist()
    lines = max(round(size * recording.resolution), 1)
    for index, (picture, (y, x)) in enumerate(zip(pictures, offsets, strict=True)):
        if recording.shutter > 0:
            picture = _smeared(picture, shot, index, recording.shutter)
        if lines < size:
            small = cv2.resize(picture, (lines, lines), interpolation=cv2.INTER_AREA)
            picture = cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)
        noise = np.ascontiguousarray(tile[y : y + size, x : x + size])
        yield add_noise(picture, noise)


def _smeared(picture: np.ndarray, shot: Projection, index: int, shutter: float) -> np.ndarray:
    """Smear each hand of a picture along its own motion; everything else moves too little to smear."""
    before, after = max(index - 1, 0), min(index + 1, len(shot.points) - 1)
    out = picture
    for hand in _HANDS:
        points = shot.points[index, hand]
        motion = (shot.points[after, hand] - shot.points[before, hand]).mean(axis=0) / max(after - before, 1) * shutter
        length = min(float(np.hypot(*motion)), _MOST_SMEAR * shot.size)
        if length < _LEAST_SMEAR:
            continue
        reach = _SLEEVE * float(np.linalg.norm(points[9] - points[0])) + length
        low = np.clip(np.floor(points.min(axis=0) - reach), 0, shot.size).astype(int)
        high = np.clip(np.ceil(points.max(axis=0) + reach), 0, shot.size).astype(int)
        if (high - low).min() < 2:  # out of the picture
            continue
        part = out[low[1] : high[1], low[0] : high[0]]
        mask = np.zeros(part.shape[:2], dtype=np.uint8)
        hull = cv2.convexHull(np.round(points - low).astype(np.int32))
        cv2.fillConvexPoly(mask, hull, 255)
        cv2.polylines(mask, [hull], True, 255, max(round(reach), 1))
        weight = cv2.blur(mask, (5, 5)).astype(np.float32)[..., None] / 255
        streak = cv2.filter2D(part, -1, _line(motion / np.hypot(*motion) * length))
        if out is picture:
            out = picture.copy()
        out[low[1] : high[1], low[0] : high[0]] = np.round(part + (streak.astype(np.float32) - part) * weight)
    return out


def _line(motion: np.ndarray) -> np.ndarray:
    """Return the kernel [n, n] that averages along a straight motion in pixels; it sums to 1."""
    reach = int(np.ceil(np.abs(motion).max() / 2))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), dtype=np.float32)
    for share in np.linspace(-0.5, 0.5, 4 * reach + 3):
        x, y = np.round(reach + share * motion).astype(int)
        kernel[y, x] += 1
    return kernel / kernel.sum()
