"""Time and space of a stroke: minimum-jerk phases of a clip, and the path a movement level draws.

Legend: T frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from islr.synth.kinematics.body import unit

_TRANSIT = 0.22  # seconds from rest to onset, and back
# Seconds of a single stroke: longer paths take longer. Repeating takes _REPEAT times as long.
_STROKE = {
    **{"None": 0.50, "Straight": 0.52, "Curved": 0.58, "Circular": 0.64},
    **{"BackAndForth": 0.70, "Z-shaped": 0.72, "X-shaped": 0.76, "Other": 0.72},
}
_REPEAT = 1.35
_HOLD = 0.07  # seconds at the end of the stroke
_DWELL = 0.10  # seconds that a hand rests where it touches before the stroke goes on, and again at its end
_RADIUS = 0.068  # metres, circular movement


# Corners of the drawn paths in shares of their width and height, from the start on. `Other` names no geometry: a wave
# is drawn, and the row counts as a fallback.
_CORNERS = {
    "Z-shaped": ((0, 0), (1, 0), (0, -1), (1, -1)),
    "X-shaped": ((0, 0), (1, -1), (1, 0), (0, -1)),
    "Other": ((0, 0), (0.25, -0.7), (0.5, 0), (0.75, -0.7), (1, 0)),
}


@dataclass(frozen=True)
class Timeline:
    """Phases of a clip: envelope [T] 0 at rest, 1 during the stroke; phase [T] 0..1 through the stroke; lift
    [T] in transit.
    """

    envelope: np.ndarray
    phase: np.ndarray
    lift: np.ndarray
    stroke: tuple[int, int]


def minimum_jerk(time: np.ndarray) -> np.ndarray:
    """Return 0 to 1 with zero velocity and acceleration at both ends; clipped outside."""
    t = np.clip(time, 0.0, 1.0)
    return t * t * t * (10 + t * (6 * t - 15))


def clip_timeline(
    movement: str, repeated: bool, touches: bool, tempo: float, fps: float, rng: np.random.Generator
) -> Timeline:
    """Time a clip: a little rest, the transit to the onset, the stroke and its hold, the way back, rest again. A hand
    that touches dwells at both ends of the stroke.
    """
    before, after = rng.uniform(0.03, 0.10, size=2)
    transit_in, transit_out = _TRANSIT / tempo * rng.uniform(0.92, 1.08, size=2)
    stroke = _STROKE[movement] * (_REPEAT if repeated else 1.0) / tempo * rng.uniform(0.94, 1.06)
    dwell, hold = _dwell_and_hold(touches, tempo)
    onset = before + transit_in
    offset = onset + dwell + stroke + hold
    frames = max(round((offset + transit_out + after) * fps), 8)
    time = np.arange(frames) / fps
    rise, fall = (time - before) / transit_in, (time - offset) / transit_out
    envelope = minimum_jerk(rise) * (1 - minimum_jerk(fall))
    lift = np.sin(np.pi * np.clip(rise, 0, 1)) + np.sin(np.pi * np.clip(fall, 0, 1))
    first, last = np.searchsorted(time, [onset, onset + dwell + stroke])
    phase = np.clip((time - onset - dwell) / stroke, 0.0, 1.0)
    return Timeline(envelope, phase, lift, (int(first), int(min(last, frames - 1))))


def _dwell_and_hold(touches: bool, tempo: float) -> tuple[float, float]:
    """Return the seconds at the beginning and at the end of a stroke."""
    dwell = _DWELL / tempo if touches else 0.0
    return dwell, max(_HOLD / tempo, dwell)


def stroke_timeline(
    movement: str, repeated: bool, touches: bool, tempo: float, fps: float, rng: np.random.Generator
) -> Timeline:
    """Time the stroke and the hold of a sign among others: no rest, no way there and back."""
    stroke = _STROKE[movement] * (_REPEAT if repeated else 1.0) / tempo * rng.uniform(0.94, 1.06)
    dwell, hold = _dwell_and_hold(touches, tempo)
    frames = max(round((dwell + stroke + hold) * fps), 4)
    phase = np.clip((np.arange(frames) / fps - dwell) / stroke, 0.0, 1.0)
    return Timeline(np.ones(frames), phase, np.zeros(frames), (0, frames - 1))


def progress_of(phase: np.ndarray, repeated: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return how far the stroke is (0..1) and how far it is lifted off while it returns (0..1), both [T]."""
    if not repeated:
        return minimum_jerk(phase), np.zeros_like(phase)
    forth, back = minimum_jerk(phase / 0.38), minimum_jerk((phase - 0.38) / 0.24)
    again = minimum_jerk((phase - 0.62) / 0.38)
    return forth - back + again, np.sin(np.pi * np.clip((phase - 0.38) / 0.24, 0, 1))


def stroke_path(
    movement: str, start: np.ndarray, end: np.ndarray, phase: np.ndarray, repeated: bool, size: float
) -> np.ndarray:
    """Return the reference points [T, 3] of a path movement from start to end."""
    chord = end - start
    length = max(float(np.linalg.norm(chord)), 1e-6)
    forward = chord / length if length > 1e-3 else np.array([-1.0, 0.0, 0.0])
    up = unit(np.array([0.0, 1.0, 0.25]) - (np.array([0.0, 1.0, 0.25]) @ forward) * forward)
    progress, lift = progress_of(phase, repeated)
    along = start + progress[:, None] * chord
    if movement == "None":
        return np.broadcast_to(start, (len(phase), 3)).copy()
    if movement == "Straight":
        return along + 0.030 * size * lift[:, None] * np.array([0.0, 0.0, 1.0])
    if movement == "Curved":
        bulge = 0.62 * max(length, 0.06) * np.sin(np.pi * progress)
        return along + (bulge * (1 - 1.4 * lift))[:, None] * up
    if movement == "Circular":
        angle = 2 * np.pi * (2 if repeated else 1) * (0.25 * minimum_jerk(phase) + 0.75 * phase)
        center = start + 0.5 * chord
        drift = 0.25 * (minimum_jerk(phase) - 0.5)[:, None] * chord
        around = np.cos(angle)[:, None] * up + np.sin(angle)[:, None] * forward
        return center + drift + _RADIUS * size * around
    if movement == "BackAndForth":
        swings = 3 if repeated else 2
        swing = 0.5 + 0.5 * np.sin(2 * np.pi * swings * phase) * np.sqrt(np.sin(np.pi * np.clip(phase, 0, 1)))
        return start + swing[:, None] * chord
    span, drop = max(length, 0.10), 0.85 * max(length, 0.10)
    plane = np.array(_CORNERS[movement], dtype=float)
    run = np.where(phase < 1.0, np.mod(2 * phase, 1.0), 1.0) if repeated else phase
    position = np.tile(plane[0], (len(phase), 1))
    for index, line in enumerate(np.diff(plane, axis=0)):
        position += minimum_jerk(run * (len(plane) - 1) - index)[:, None] * line
    points = start + position[:, :1] * span * forward + (position[:, 1:] + 0.5) * drop * up
    if repeated:  # the second tracing starts with a quick return, spread over a few frames
        points = _smoothed(points)
    return points


def _smoothed(points: np.ndarray) -> np.ndarray:
    padded = np.concatenate([points[:1], points[:1], points, points[-1:], points[-1:]])
    kernel = np.array([0.1, 0.22, 0.36, 0.22, 0.1])
    return np.stack([np.convolve(padded[:, axis], kernel, mode="valid") for axis in range(3)], axis=-1)
