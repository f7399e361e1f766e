"""A performance projected into a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from islr.synth.drawing.camera import Camera
from islr.synth.kinematics.body import Body, landmarks
from islr.synth.kinematics.motion import Performance


@dataclass(frozen=True)
class Projection:
    """One clip before it is drawn: 3-D performance projected by a camera. Pixels are those of the final picture."""

    points: np.ndarray  # [T, 75, 2] pixels
    depth: np.ndarray  # [T, 75] metres, larger is nearer
    per_metre: np.ndarray  # [T, 75] pixels
    palm_side: np.ndarray  # [2, T] -1 back of the hand seen .. 1 palm seen
    pad_side: np.ndarray  # [2, T, 4, 3] the same of every finger segment
    sway: np.ndarray  # [T, 2] pixels
    size: int


def project_performance(performance: Performance, body: Body, camera: Camera, size: int) -> Projection:
    """Project a performance into a square picture of `size` pixels."""
    world = landmarks(body, performance.elbows, performance.hands) + performance.sway[:, None]
    return project_points(world, performance.palms, performance.pads, performance.sway, camera, size)


def project_points(
    world: np.ndarray, palms: np.ndarray, pads: np.ndarray, sway: np.ndarray, camera: Camera, size: int
) -> Projection:
    """Project 75 points [T, 75, 3], palm and finger normals [2, T, ..., 3] and the body's offset [T, 3]."""
    points, depth, per_metre = camera.project(world, size)
    still, _, _ = camera.project(np.zeros((1, 3)), size)
    swayed, _, _ = camera.project(sway, size)
    return Projection(
        points=points,
        depth=depth,
        per_metre=per_metre,
        palm_side=camera.face_on(palms),
        pad_side=camera.face_on(pads),
        sway=swayed - still,
        size=size,
    )
