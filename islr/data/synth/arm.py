"""One arm in time: brings a point of the hand along a path, within the limits of wrist and reach.

Legend: T frames. Everything is a right arm in its own frame; a left arm is the mirror image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from islr.data.synth import hand as hands
from islr.data.synth.body import MIRROR, Body, solve_arm, unit
from islr.data.synth.path import Timeline

_WRIST_LIMIT = np.radians(72.0)  # largest angle between forearm and hand
_WRIST_PASSES = 8  # until the limited wrist and the arm agree to about a millimetre
_ELBOW_POLE = np.array([-0.55, -0.95, -0.25])

Stance = tuple[np.ndarray, np.ndarray, np.ndarray]  # wrist position, finger direction, palm direction


@dataclass(frozen=True)
class Arm:
    """Joints of one arm and the directions its hand shows."""

    elbow: np.ndarray  # [T, 3]
    hand: np.ndarray  # [T, 21, 3]
    palm: np.ndarray  # [T, 3]
    pads: np.ndarray  # [T, 4, 3, 3]

    def mirrored(self) -> Arm:
        """The same arm on the other side."""
        return Arm(self.elbow * MIRROR, self.hand * MIRROR, self.palm * MIRROR, self.pads * MIRROR)


def hand_frame(finger: np.ndarray, palm: np.ndarray) -> np.ndarray:
    """Hand frame whose y is the finger direction and whose z is as near the palm direction as it can be: [3,
    3].
    """
    y = unit(finger)
    z = unit(palm - (palm @ y) * y)
    return np.stack([np.cross(y, z), y, z], axis=-1)


def rotate(axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Rodrigues: axes [T, 3] (unit), angles [T] -> [T, 3, 3]."""
    x, y, z = axis[:, 0], axis[:, 1], axis[:, 2]
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(-1, 3, 3)
    sin, cos = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return np.eye(3) + sin * cross + (1 - cos) * (cross @ cross)


def _between(start: np.ndarray, end: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """Shortest rotation from start [3, 3] to end [T, 3, 3], a share `amount` [T] of the way: [T, 3, 3]."""
    relative = start.T @ end
    angle = np.arccos(np.clip((np.trace(relative, axis1=1, axis2=2) - 1) / 2, -1.0, 1.0))
    axis = np.stack(
        [
            relative[:, 2, 1] - relative[:, 1, 2],
            relative[:, 0, 2] - relative[:, 2, 0],
            relative[:, 1, 0] - relative[:, 0, 1],
        ],
        axis=-1,
    )
    return start @ rotate(unit(axis), angle * amount)


def _limit_wrist(rotation: np.ndarray, forearm: np.ndarray) -> np.ndarray:
    """Turn hands [T, 3, 3] back towards their forearm [T, 3] where the wrist would bend too far."""
    finger = rotation[:, :, 1]
    angle = np.arccos(np.clip(np.sum(finger * forearm, axis=-1), -1.0, 1.0))
    excess = np.maximum(angle - _WRIST_LIMIT, 0.0)
    return rotate(unit(np.cross(finger, forearm)), excess) @ rotation


def articulate(
    body: Body,
    timeline: Timeline,
    points: np.ndarray,
    rotation: np.ndarray,
    twist: np.ndarray,
    posture: hands.HandConfig,
    reference: np.ndarray,
    rest: Stance,
) -> Arm:
    """Bring a point of the hand along points [T, 3], with a hand frame [3, 3], twists [T] and postures.

    `reference` [3] is the point of the hand, in metres of this body, that is brought to `points`.
    """
    middle = points.mean(axis=0, keepdims=True)
    for _ in range(_WRIST_PASSES):  # the wrist limit turns the hand, which moves the wrist, which turns the forearm
        elbow, wrist = solve_arm(body, middle - rotation @ reference, _ELBOW_POLE)
        rotation = _limit_wrist(rotation[None], unit(wrist - elbow))[0]
    up = np.tile(np.array([0.0, 1.0, 0.0]), (len(points), 1))
    turned = rotation @ rotate(up, twist)
    wrist_stroke = points - turned @ reference
    rest_wrist, rest_finger, rest_palm = rest
    share = timeline.envelope[:, None]
    wrist = rest_wrist * (1 - share) + wrist_stroke * share
    wrist[:, 2] += 0.035 * timeline.lift
    elbow, wrist = solve_arm(body, wrist, _ELBOW_POLE)
    frame = _between(hand_frame(rest_finger, rest_palm), turned, timeline.envelope)
    frame = _limit_wrist(frame, unit(wrist - elbow))
    config = hands.RELAXED.blend(posture, timeline.envelope)
    local = hands.joints(config) * body.hand
    _, pads = hands.finger_directions(config)
    return Arm(
        elbow=elbow,
        hand=wrist[:, None] + local @ frame.transpose(0, 2, 1),
        palm=frame[:, :, 2],
        pads=np.einsum("tij,tfsj->tfsi", frame, pads),
    )
