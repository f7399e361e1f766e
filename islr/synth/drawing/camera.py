"""A pinhole camera that faces the signer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

VIEW_HEIGHT = 0.91  # metres from the top to the bottom of the picture: head to waist
VIEW_CENTER = -0.062  # height of the picture's middle above the shoulders
DISTANCE = 2.4  # metres from camera to signer
# The same for whole bodies, with room to jump and to reach up; degrees a camera may stand to the side.
_ACTION_VIEW_HEIGHT = 2.25
_ACTION_VIEW_CENTER = -0.40
_ACTION_DISTANCE = 4.6
_ACTION_YAW = 20.0


@dataclass(frozen=True)
class Camera:
    """A pinhole camera facing the signer."""

    yaw: float
    pitch: float
    roll: float
    scale: float
    shift: tuple[float, float]  # share of the picture
    center: float = VIEW_CENTER  # height of the picture's middle above the shoulders, metres
    distance: float = DISTANCE  # metres

    def project(self, points: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Project points [..., 3] of the body frame: pixels [..., 2] (y down), depth [...], pixels per metre [...].

        Depth is in metres and larger when nearer.

        Args:
            size: side of the square picture in pixels.
        """
        matrix = _yaw_pitch(self.yaw, self.pitch)
        turned = (points - np.array([0.0, self.center, 0.0])) @ matrix.T
        per_metre = self.scale * size / VIEW_HEIGHT * self.distance / (self.distance - turned[..., 2])
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        x, y = turned[..., 0], -turned[..., 1]
        flat = np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1) * per_metre[..., None]
        return flat + size * (0.5 + np.array(self.shift)), turned[..., 2], per_metre

    def face_on(self, normals: np.ndarray) -> np.ndarray:
        """Return how far unit vectors [..., 3] point to the camera: -1 away, 1 towards it."""
        return normals @ _yaw_pitch(self.yaw, self.pitch)[2]


def _yaw_pitch(yaw: float, pitch: float) -> np.ndarray:
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    return np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]]) @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])


def whole_body(camera: Camera, rng: np.random.Generator) -> Camera:
    """Return the same camera further away, so that all of a moving person is in the picture."""
    return replace(
        camera,
        yaw=camera.yaw + np.radians(rng.uniform(-_ACTION_YAW, _ACTION_YAW)),
        scale=camera.scale * VIEW_HEIGHT / _ACTION_VIEW_HEIGHT,
        center=_ACTION_VIEW_CENTER,
        distance=_ACTION_DISTANCE,
    )
