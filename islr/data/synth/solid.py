"""The signer's body as solids: where the front of torso, neck and head is, and how far limbs have to come forward.

Nothing a signer moves is behind the front of the body, so a solid is its front: the depth z of the skin over every
(x, y) of the body frame of `body`, metres. Legend: T frames.
"""

from __future__ import annotations

import numpy as np

from islr.data.synth.body import Body

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
    """Metres of flesh around the 21 joints of a hand [21]."""
    return body.hand * np.array([_WRIST_FLESH, *_THUMB_FLESH, *4 * _FINGER_FLESH])


def _superellipse(x: np.ndarray, half_width: float, half_depth: float, power: float) -> np.ndarray:
    """Depth of an outline over x, -1 beside it."""
    share = np.abs(x) / half_width
    front = half_depth * np.maximum(1 - share**power, 0.0) ** (1 / power)
    return np.where(share < 1, front, _BEHIND)


def front(body: Body, points: np.ndarray) -> np.ndarray:
    """Depth [...] of the skin that is foremost at the x and y of points [..., 3]; far behind where there is none."""
    x, y = points[..., 0], points[..., 1]
    slope = np.sqrt(np.clip((_CHEST_TOP - y) / _CHEST_ROUNDING, 0.0, 1.0))
    chest = _superellipse(x, _CHEST_WIDTH * body.shoulder, _CHEST_DEPTH, _CHEST_POWER)
    chest = np.where((slope > 0) & (y > -body.torso) & (chest > _BEHIND), slope * chest, _BEHIND)
    neck = np.where((y > -0.02) & (y < 1.3 * body.neck), _superellipse(x, *_NECK, 2.0), _BEHIND)
    center, half = body.head_center, _HEAD * body.head
    outside = np.abs((x - center[0]) / half[0]) ** _HEAD_POWER + np.abs((y - center[1]) / half[1]) ** _HEAD_POWER
    head = center[2] + half[2] * np.maximum(1 - outside, 0.0) ** (1 / _HEAD_POWER)
    return np.maximum(np.maximum(chest, neck), np.where(outside < 1, head, _BEHIND))


def depth_inside(body: Body, points: np.ndarray, flesh: np.ndarray | float = 0.0) -> np.ndarray:
    """How far points [..., 3] with so much flesh around them are behind the front of torso or head, metres; negative
    before it.
    """
    return front(body, points) - points[..., 2] + flesh
