"""One arm in time: brings a point of the hand along a path, within the limits of wrist and reach.

Legend: T frames. Everything is a right arm in its own frame; a left arm is the mirror image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from islr.synth.kinematics import hand as hands
from islr.synth.kinematics.body import MIRROR, Body, solve_arm, unit
from islr.synth.kinematics.path import Timeline
from islr.synth.kinematics.solid import TOUCH, depth_inside, hand_flesh, ways_out

_WRIST_LIMIT = np.radians(72.0)  # largest angle between forearm and hand
_WRIST_PASSES = 8  # until the limited wrist and the arm agree to about a millimetre
ELBOW_POLE = np.array([-0.55, -0.95, -0.25])
_ELBOW_AHEAD = np.array([-0.30, -0.55, 0.90])  # the pole that keeps an arm before the chest
_ELBOW_EASE, _WRIST_EASE = 8, 3  # frames on either side in which elbow and wrist make way for the body, and return
_CLEARANCES = 10  # passes until a hand that makes way for the body, and the arm behind it, agree
_FOREARM_FLESH = 0.015  # metres of a forearm that keep out of the body; the sleeve around it may be pressed
_SETTLED = 0.001  # metres

Stance = tuple[np.ndarray, np.ndarray, np.ndarray]  # wrist position, finger direction, palm direction


@dataclass(frozen=True)
class Arm:
    """Joints of one arm and the directions its hand shows."""

    elbow: np.ndarray  # [T, 3]
    hand: np.ndarray  # [T, 21, 3]
    palm: np.ndarray  # [T, 3]
    pads: np.ndarray  # [T, 4, 3, 3]

    def mirrored(self) -> Arm:
        """Return the same arm on the other side."""
        return Arm(self.elbow * MIRROR, self.hand * MIRROR, self.palm * MIRROR, self.pads * MIRROR)


def hand_frame(finger: np.ndarray, palm: np.ndarray) -> np.ndarray:
    """Return the hand frame whose y is the finger direction and whose z is as near the palm direction as it can be: [3,
    3].
    """
    y = unit(finger)
    z = unit(palm - (palm @ y) * y)
    return np.stack([np.cross(y, z), y, z], axis=-1)


def rotate(axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Return the rotations [T, 3, 3] about unit axes [T, 3] by angles [T] (Rodrigues)."""
    x, y, z = axis[:, 0], axis[:, 1], axis[:, 2]
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(-1, 3, 3)
    sin, cos = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return np.eye(3) + sin * cross + (1 - cos) * (cross @ cross)


def _between(start: np.ndarray, end: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """Return the shortest rotation from start [3, 3] to end [T, 3, 3], a share `amount` [T] of the way: [T, 3, 3]."""
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


@dataclass(frozen=True)
class Track:
    """Where one hand goes, before the arm follows: wrist [T, 3], hand frame [T, 3, 3], posture with a T axis."""

    wrist: np.ndarray
    frame: np.ndarray
    config: hands.HandConfig

    def __len__(self) -> int:
        return len(self.wrist)

    def at(self, frame: int) -> Track:
        """Return one frame of it, as a track of length 1."""
        part = slice(frame, frame + 1 or None)
        return Track(self.wrist[part], self.frame[part], self.config.at(part))

    def toward(self, other: Track, amount: np.ndarray, amount_of_hand: np.ndarray, lift: np.ndarray) -> Track:
        """Return the way from this held frame to that one (both of length 1).

        Args:
            other: Where it ends.
            amount: [T] share of the way of wrist and orientation.
            amount_of_hand: [T] share of the way of the posture.
            lift: [T] metres by which the wrist comes forward on the way.
        """
        share = amount[:, None]
        wrist = self.wrist * (1 - share) + other.wrist * share
        wrist[:, 2] += lift
        frame = _between(self.frame[0], np.repeat(other.frame, len(amount), axis=0), amount)
        return Track(wrist, frame, self.config.blend(other.config, amount_of_hand))


def joined(tracks: list[Track]) -> Track:
    """Return tracks one after the other."""
    return Track(
        np.concatenate([track.wrist for track in tracks]),
        np.concatenate([track.frame for track in tracks]),
        hands.joined([track.config for track in tracks]),
    )


def resting(rest: Stance) -> Track:
    """Return the relaxed hand at rest, as a track of length 1."""
    wrist, finger, palm = rest
    one = np.zeros(1)
    return Track(wrist[None].copy(), hand_frame(finger, palm)[None], hands.RELAXED.blend(hands.RELAXED, one))


def stroke_track(
    body: Body,
    points: np.ndarray,
    rotation: np.ndarray,
    twist: np.ndarray,
    posture: hands.HandConfig,
    reference: np.ndarray,
) -> Track:
    """Bring a point of the hand along points [T, 3], with a hand frame [3, 3], twists [T] and postures.

    `reference` [3] is the point of the hand, in metres of this body, that is brought to `points`.
    """
    middle = points.mean(axis=0, keepdims=True)
    for _ in range(_WRIST_PASSES):  # the wrist limit turns the hand, which moves the wrist, which turns the forearm
        elbow, wrist = solve_arm(body, middle - rotation @ reference, ELBOW_POLE)
        rotation = _limit_wrist(rotation[None], unit(wrist - elbow))[0]
    up = np.tile(np.array([0.0, 1.0, 0.0]), (len(points), 1))
    turned = rotation @ rotate(up, twist)
    return Track(points - turned @ reference, turned, posture)


def from_rest_and_back(track: Track, timeline: Timeline, rest: Stance) -> Track:
    """Return the track as far as the timeline's envelope says, the rest posture for the remainder."""
    rest_wrist, rest_finger, rest_palm = rest
    share = timeline.envelope[:, None]
    wrist = rest_wrist * (1 - share) + track.wrist * share
    wrist[:, 2] += 0.035 * timeline.lift
    frame = _between(hand_frame(rest_finger, rest_palm), track.frame, timeline.envelope)
    return Track(wrist, frame, hands.RELAXED.blend(track.config, timeline.envelope))


def _eased(need: np.ndarray, ease: int) -> np.ndarray:
    """Smooth a need in every frame [T]: it rises before and falls after, and is never less than needed."""
    kernel = np.hanning(2 * ease + 3)[1:-1]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(need, 2 * ease, mode="edge"), 2 * ease + 1)
    return np.convolve(windows.max(axis=-1), kernel / kernel.sum(), mode="valid")


def _arm_depth(body: Body, elbow: np.ndarray, wrist: np.ndarray) -> np.ndarray:
    """Return how deep an arm's bones are in the body [T], metres, leaving out its upper end."""
    upper = body.shoulder_right + np.linspace(0.3, 1.0, 7)[:, None, None] * (elbow - body.shoulder_right)
    fore = elbow + np.linspace(0.0, 1.0, 9)[:, None, None] * (wrist - elbow)
    return np.maximum(depth_inside(body, upper).max(axis=0), depth_inside(body, fore, _FOREARM_FLESH).max(axis=0))


def _reach(body: Body, wrist: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the elbow and wrist [T, 3] of an arm whose elbow comes forward where it would cross the body."""
    elbow, reached = solve_arm(body, wrist, ELBOW_POLE)
    blocked = _arm_depth(body, elbow, reached) > 0
    if not blocked.any():
        return elbow, reached
    share = _eased(blocked.astype(float), _ELBOW_EASE)[:, None]
    return solve_arm(body, wrist, ELBOW_POLE * (1 - share) + _ELBOW_AHEAD * share)


def follow(body: Body, track: Track) -> Arm:
    """Return the arm that leads a hand along its track, within reach and wrist limit, outside torso and head.

    A hand that would sink into the body moves out of it by the shorter way, forward or to the side, until only what
    touches gives way, by `TOUCH`.
    """
    local = hands.joints(track.config) * body.hand
    flesh, goal = hand_flesh(body), track.wrist.copy()
    for _ in range(_CLEARANCES):
        elbow, wrist = _reach(body, goal)
        frame = _limit_wrist(track.frame, unit(wrist - elbow))
        hand = wrist[:, None] + local @ frame.transpose(0, 2, 1)
        ahead, aside = np.maximum(ways_out(body, hand, flesh) - (TOUCH - _SETTLED), 0.0)  # [T, 21] each
        sideways = np.where(aside < ahead, aside, 0.0)
        right, left = ((sideways * (sign * hand[..., 0] > 0)).max(axis=1) for sign in (-1, 1))
        forward = np.maximum(np.where(ahead <= aside, ahead, 0.0).max(axis=1), _arm_depth(body, elbow, wrist))
        if max(forward.max(), right.max(), left.max()) < _SETTLED:
            break
        goal[:, 2] += _eased(np.maximum(forward, 0.0), _WRIST_EASE)
        goal[:, 0] += _eased(left, _WRIST_EASE) - _eased(right, _WRIST_EASE)
    _, pads = hands.finger_directions(track.config)
    return Arm(elbow, hand, frame[:, :, 2], np.einsum("tij,tfsj->tfsi", frame, pads))
