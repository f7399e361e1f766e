"""The signer's body as solids: torso, neck and head, and how far limbs are inside them.

Nothing a signer moves is behind the body, so a solid has a front and two sides, and no back. Metres in the body frame
of `body`.
"""

from __future__ import annotations

import numpy as np

from islr.synth.kinematics.body import Body

TOUCH = 0.005  # metres that skin gives way where it is touched
# Half the width in shoulder half-widths and half the depth in metres of the chest; its cross-section is a
# superellipse, between an ellipse (2) and a box.
_CHEST_WIDTH, _CHEST_DEPTH, _CHEST_POWER = 0.78, 0.096, 2.6
_CHEST_TOP, _CHEST_ROUNDING = 0.010, 0.060  # metres: how high the chest goes, and over what height it slopes back there
_NECK = (0.048, 0.052)  # half-width and half-depth, metres
_HEAD = np.array([0.074, 0.118, 0.086])  # half-axes of the average head, metres
_HEAD_POWER = 2.4
_BEHIND = -1.0  # where there is no body, its front is out of everybody's way
# Flesh around the 21 joints of an average hand, metres: wrist, thumb, fingers.
_WRIST_FLESH, _THUMB_FLESH, _FINGER_FLESH = 0.018, (0.015, 0.011, 0.010, 0.009), (0.011, 0.010, 0.009, 0.008)


def hand_flesh(body: Body) -> np.ndarray:
    """Return the metres of flesh around the 21 joints of a hand [21]."""
    return body.hand * np.array([_WRIST_FLESH, *_THUMB_FLESH, *4 * _FINGER_FLESH])


def _outline(share: np.ndarray, power: float) -> np.ndarray:
    """Return the height of a superellipse with half-axes 1 over a coordinate, 0 beyond its ends."""
    return np.maximum(1 - np.abs(share) ** power, 0.0) ** (1 / power)


def _into(x: np.ndarray, z: np.ndarray, half_width: np.ndarray, half_depth: np.ndarray, power: float) -> np.ndarray:
    """Return the metres [2, ...] to the front and to the nearer side of a solid of such a cross-section at every point;
    negative outside.
    """
    front = half_depth * _outline(x / np.maximum(half_width, 1e-6), power)
    beside = np.where(half_width > 0, half_width - np.abs(x), _BEHIND)
    return np.stack([np.where(half_width > 0, front - z, _BEHIND), beside])


def ways_out(body: Body, points: np.ndarray, flesh: np.ndarray | float = 0.0) -> np.ndarray:
    """Return the metres [2, ...] by which points [..., 3] with so much flesh have to move forward, or to the side, to
    be out of torso, neck and head. Where one of them is not positive, the point is out.
    """
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    slope = np.sqrt(np.clip((_CHEST_TOP - y) / _CHEST_ROUNDING, 0.0, 1.0)) * (y > -body.torso)
    wide = np.where(slope > 0, _CHEST_WIDTH * body.shoulder, 0.0)
    neck_wide = np.where((y > -0.02) & (y < 1.3 * body.neck), _NECK[0], 0.0)
    center, half = body.head_center, _HEAD * body.head
    level = _outline((y - center[1]) / half[1], _HEAD_POWER)
    solids = np.stack(
        [
            _into(x, z, wide, slope * _CHEST_DEPTH, _CHEST_POWER),
            _into(x, z, neck_wide, np.full_like(x, _NECK[1]), 2.0),
            _into(x - center[0], z - center[2], half[0] * level, half[2] * level, _HEAD_POWER),
        ]
    )
    solids = solids + flesh
    deepest = np.argmax(solids.min(axis=1), axis=0)
    return np.take_along_axis(solids, deepest[None, None], axis=0)[0]


def depth_inside(body: Body, points: np.ndarray, flesh: np.ndarray | float = 0.0) -> np.ndarray:
    """Return how far points [..., 3] with so much flesh are inside torso, neck or head, metres; negative outside.
    What is behind the middle of the body counts as inside.
    """
    return ways_out(body, points, flesh).min(axis=0)
