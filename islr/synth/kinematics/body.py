"""The signer's body: proportions, places of articulation, two-bone arms, and the 33 body landmarks.

Legend: T frames. The body frame: origin between the shoulders, x to the signer's own left (right in an unmirrored
picture), y up, z towards the camera; metres. Everything is written for a right-handed signer's dominant (right) side;
the other side and left-handed signers are mirror images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from islr.synth.kinematics.hand import contact_point

MIRROR = np.array([-1.0, 1.0, 1.0])
SKIN = 0.012  # metres from a bone to the skin above it
_FURTHEST_REACH = 0.985  # share of the straight arm; elbows do not lock


@dataclass(frozen=True)
class Body:
    """Proportions of one signer, in metres (head and hand are scales of the average)."""

    shoulder: float = 0.180  # half the shoulder width
    upper_arm: float = 0.285
    forearm: float = 0.245
    torso: float = 0.500  # shoulder line to hip line
    neck: float = 0.095
    head: float = 1.0
    hand: float = 1.30  # hands are drawn a little large, so that fingers survive downscaling

    @property
    def head_center(self) -> np.ndarray:
        return np.array([0.0, self.neck + 0.108 * self.head, 0.015])

    @property
    def shoulder_right(self) -> np.ndarray:
        return np.array([-self.shoulder, 0.0, 0.0])


def unit(vector: np.ndarray) -> np.ndarray:
    """Return the vectors [..., 3] scaled to length 1."""
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-9)


def two_bones(
    root: np.ndarray, end: np.ndarray, lengths: tuple[float, float], pole: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Solve the inverse kinematics of two bones.

    Args:
        root: [3] or [T, 3] where the first bone begins.
        end: [T, 3] where the second one is wanted to end.
        lengths: Of the first and of the second bone.
        pole: [3] the side the joint between them swings to.

    Returns:
        joint [T, 3] and end [T, 3]; the end is the wanted one, or the nearest the bones reach. They keep their lengths.
    """
    first, second = lengths
    reach = end - root
    distance = np.linalg.norm(reach, axis=-1, keepdims=True)
    longest = _FURTHEST_REACH * (first + second)
    shortest = 1.15 * abs(first - second) + 0.05
    toward = reach / np.maximum(distance, 1e-9)
    distance = np.clip(distance, shortest, longest)
    cosine = (first**2 + distance**2 - second**2) / (2 * first * distance)
    swing = unit(pole - np.sum(pole * toward, axis=-1, keepdims=True) * toward)
    sine = np.sqrt(np.maximum(1 - cosine**2, 0.0))
    return root + first * (cosine * toward + sine * swing), root + distance * toward


def solve_arm(body: Body, wrist: np.ndarray, pole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a right arm that brings its wrist to [T, 3]: elbow [T, 3] and wrist [T, 3], see `two_bones`."""
    return two_bones(body.shoulder_right, wrist, (body.upper_arm, body.forearm), pole)


def reference_point(hand: np.ndarray, selected: str, flexion: str, in_space: bool) -> np.ndarray:
    """Return what is brought to a place: the middle of the hand in free space, else the part of the hand that
    touches.
    """
    return hand[[0, 5, 9, 13, 17]].mean(axis=0) if in_space else contact_point(hand, selected, flexion)


# Face landmarks of MediaPipe's 0-10 relative to the head's centre, average-head metres.
_FACE = np.array(
    [
        *[(0.000, -0.012, 0.104)],
        *[(0.018, 0.022, 0.088), (0.034, 0.023, 0.084), (0.049, 0.021, 0.076)],
        *[(-0.018, 0.022, 0.088), (-0.034, 0.023, 0.084), (-0.049, 0.021, 0.076)],
        *[(0.078, 0.000, 0.000), (-0.078, 0.000, 0.000)],
        *[(0.025, -0.058, 0.086), (-0.025, -0.058, 0.086)],
    ]
)
_LEGS = np.array([[0.10, -0.92, 0.03], [0.10, -1.32, 0.0], [0.09, -1.36, -0.03], [0.11, -1.40, 0.1]])


def landmarks(body: Body, elbows: np.ndarray, hands: np.ndarray) -> np.ndarray:
    """Return the 75 points in MediaPipe order [T, 75, 3] of elbows [2, T, 3] and hands [2, T, 21, 3], right then left.

    The legs (25-32) are plausible but never seen: their confidence is 0.
    """
    frames = elbows.shape[1]
    out = np.zeros((frames, 75, 3))
    out[:, :11] = body.head_center + _FACE * body.head
    hip = np.array([0.56 * body.shoulder, -body.torso, 0.0])
    for side, mirror, offset in ((1, MIRROR, 0), (0, np.ones(3), 1)):  # MediaPipe: left is odd, right is even
        hand = hands[side]
        shoulder = body.shoulder_right * mirror
        out[:, 11 + offset] = shoulder
        out[:, 13 + offset] = elbows[side]
        out[:, 15 + offset] = hand[:, 0]
        out[:, 17 + offset], out[:, 19 + offset], out[:, 21 + offset] = hand[:, 17], hand[:, 5], hand[:, 3]
        out[:, 23 + offset] = hip * (MIRROR if offset else 1.0)
        out[:, [25 + offset, 27 + offset, 29 + offset, 31 + offset]] = _LEGS * (MIRROR if offset else 1.0)
    out[:, 33:54], out[:, 54:75] = hands[1], hands[0]
    return out
