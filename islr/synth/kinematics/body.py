"""The signer's body: proportions, places of articulation, two-bone arms, and the 33 body landmarks.

Legend: T frames. The body frame: origin between the shoulders, x to the signer's own left (right in an unmirrored
picture), y up, z towards the camera; metres. Everything is written for a right-handed signer's dominant (right) side;
the other side and left-handed signers are mirror images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from islr.synth.kinematics.hand import FINGERTIPS, MCP_JOINTS, PIP_JOINTS, contact_point

MIRROR = np.array([-1.0, 1.0, 1.0])
HOVER = 0.09  # metres between hand and place in a sign without contact
_TOUCHED_REGION = 0.045  # metres around a place on a hand in which folded fingers cover it
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


class Place(NamedTuple):
    """One place of articulation: where it is, which way is out, and how a right hand meets it."""

    point: np.ndarray  # [3] on the skin
    normal: np.ndarray  # [3] out of the body
    finger: np.ndarray  # [3] where the fingers point
    palm: np.ndarray  # [3] where the palm faces
    along: np.ndarray  # [3] a path that stays at the place
    away: np.ndarray  # [3] from the place to its "Away" counterpart
    on_body: bool  # on head or torso, which are solid; else on the other arm, or in space


def _vector(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)


_TO_FACE = (_vector(0.72, 0.62, -0.28), _vector(0.22, 0.05, -0.97))
_TO_TORSO = (_vector(0.90, 0.22, -0.22), _vector(0.18, -0.05, -0.98))
_FORWARD = (_vector(0.12, 0.97, 0.10), _vector(0.34, -0.05, 0.94))
_TO_HAND = (_vector(0.80, -0.42, -0.12), _vector(-0.15, -0.50, -0.85))
_SIDEWAYS = _vector(-0.155, 0.015, 0.0)

# Head places relative to the head's centre in average-head metres: point, normal, (finger, palm).
_HEAD: dict[str, tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]] = {
    "HeadTop": (
        _vector(-0.015, 0.118, 0.030),
        _vector(0, 1, 0),
        (_vector(0.85, -0.10, -0.15), _vector(0, -0.95, 0.3)),
    ),
    "Forehead": (_vector(-0.026, 0.052, 0.094), _vector(-0.25, 0.2, 0.9), _TO_FACE),
    "Eye": (_vector(-0.042, 0.026, 0.086), _vector(-0.3, 0.0, 0.95), _TO_FACE),
    "CheekNose": (_vector(-0.044, -0.022, 0.086), _vector(-0.3, 0.0, 0.95), _TO_FACE),
    "UpperLip": (_vector(-0.006, -0.042, 0.102), _vector(0, 0, 1), _TO_FACE),
    "Mouth": (_vector(-0.010, -0.060, 0.096), _vector(0, 0, 1), _TO_FACE),
    "Chin": (_vector(-0.006, -0.096, 0.088), _vector(0, -0.2, 0.98), _TO_FACE),
    "UnderChin": (
        _vector(-0.006, -0.112, 0.060),
        _vector(0, -1, 0.2),
        (_vector(0.80, 0.42, -0.25), _vector(0.1, -0.85, 0.3)),
    ),
    "HeadAway": (_vector(-0.185, 0.030, 0.110), _vector(-0.5, 0, 0.85), _FORWARD),
    "Other": (
        _vector(-0.080, 0.004, 0.010),
        _vector(-1, 0, 0.3),
        (_vector(0.20, 0.95, -0.10), _vector(0.80, 0.0, -0.60)),
    ),  # the ear
}
# Torso places: x in shoulder half-widths, y in torso lengths, z in metres.
_TORSO: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "Neck": (_vector(-0.05, 0.085, 0.065), _vector(0, 0, 1)),
    "Clavicle": (_vector(-0.42, -0.05, 0.110), _vector(0, 0.3, 0.95)),
    "Shoulder": (
        _vector(0.86, 0.02, 0.075),
        _vector(0.2, 0.4, 0.9),
    ),  # the far shoulder; own side when two-handed
    "TorsoTop": (_vector(0.06, -0.22, 0.110), _vector(0, 0, 1)),
    "TorsoMid": (_vector(0.00, -0.42, 0.115), _vector(0, 0, 1)),
    "TorsoBottom": (_vector(-0.10, -0.60, 0.110), _vector(0, 0, 1)),
    "Waist": (_vector(-0.35, -0.72, 0.105), _vector(0, 0, 1)),
    "Hips": (_vector(-0.70, -0.80, 0.090), _vector(-0.3, 0, 0.95)),
    "BodyAway": (_vector(-0.30, -0.36, 0.260), _vector(0, 0, 1)),
    "Other": (_vector(0.00, -0.32, 0.115), _vector(0, 0, 1)),
}
# How the other hand waits for the dominant one, in the other hand's own mirrored frame: wrist, finger, palm.
_BASE_WRIST = _vector(-0.115, -0.265, 0.215)
_BASE_HAND: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "Palm": (_vector(0.86, 0.30, 0.30), _vector(-0.12, 0.50, 0.86)),
    "PalmBack": (_vector(0.88, 0.10, 0.32), _vector(0.10, -0.62, -0.78)),
    "FingerRadial": (_vector(0.80, 0.28, 0.40), _vector(0.30, 0.0, -0.95)),
    "FingerUlnar": (_vector(0.80, 0.22, 0.40), _vector(0.0, -0.93, 0.35)),
    "FingerTip": (_vector(0.30, 0.93, 0.16), _vector(0.55, -0.1, 0.83)),
}
_BASE_LIKE = {
    "FingerFront": "Palm",
    "Heel": "Palm",
    "FingerBack": "PalmBack",
    "HandAway": "Palm",
    "Other": "Palm",
}
# The other arm as a place: wrist, finger, palm in its own mirrored frame.
_BASE_ARM = (_vector(0.045, -0.215, 0.235), _vector(0.95, 0.05, 0.10), _vector(0.05, -0.80, -0.60))
_BASE_ARM_FRONT = (_BASE_ARM[0], _BASE_ARM[1], _vector(-0.05, 0.75, 0.65))
_BASE_ARM_UP = (_vector(-0.10, 0.03, 0.25), _vector(0.15, 0.97, 0.10), _vector(0.9, 0.0, 0.4))

HAND_PLACES = (*_BASE_HAND, *_BASE_LIKE)
ARM_PLACES = (
    *("WristBack", "WristFront", "ForearmBack", "ForearmFront", "ForearmUlnar", "ForearmRadial"),
    *("ElbowBack", "ElbowFront", "UpperArm", "ArmAway"),
)
LOCATIONS: dict[str, tuple[str, ...]] = {
    "Head": tuple(_HEAD),
    "Neutral": ("Neutral",),
    "Body": tuple(_TORSO),
    "Hand": HAND_PLACES,
    "Arm": ARM_PLACES,
}


def base_pose(major: str, minor: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Wrist, finger and palm of the other hand when it, or its arm, is the place; None when it is not needed."""
    if major == "Hand":
        finger, palm = _BASE_HAND[_BASE_LIKE.get(minor, minor)]
        return _BASE_WRIST, finger, palm
    if major == "Arm" and minor != "UpperArm":
        if minor == "ElbowBack":
            return _BASE_ARM_UP
        return _BASE_ARM_FRONT if minor.endswith("Front") else _BASE_ARM
    return None


def fixed_place(body: Body, major: str, minor: str, two_handed: bool) -> Place:
    """A place on the head, on the torso or in neutral space. In two-handed signs each hand keeps to its own
    side.
    """
    if major == "Head":
        point, normal, (finger, palm) = _HEAD[minor]
        point = body.head_center + point * body.head
        along, away = 0.85 * _SIDEWAYS, _vector(-0.15, -0.02, 0.09)
    elif major == "Body":
        scale, normal = _TORSO[minor]
        point = scale * np.array([body.shoulder, body.torso, 1.0])
        (finger, palm), along, away = _TO_TORSO, 0.85 * _SIDEWAYS, _vector(-0.11, 0.01, 0.13)
    else:
        point, normal = _vector(-0.165, -0.085, 0.290), _vector(0, 0, 1)
        (finger, palm), along, away = _FORWARD, _SIDEWAYS, _vector(-0.05, 0.0, 0.12)
    if two_handed and minor != "Neutral":
        side = min(point[0], -0.040) if minor != "Shoulder" else -0.75 * body.shoulder
        point = np.array([side, point[1], point[2]])
        if minor == "Shoulder":
            finger = _vector(0.25, 0.90, -0.35)
    return Place(point, normal, finger, palm, along, away, major in ("Head", "Body"))


def place_on_other_arm(minor: str, hand: np.ndarray, elbow: np.ndarray, shoulder: np.ndarray) -> Place:
    """A place on the other hand or arm, from where that arm is held: hand [21, 3], elbow [3], shoulder [3]."""
    wrist = hand[0]
    finger_axis = unit(hand[9] - wrist)
    palm = unit(np.cross(hand[17] - wrist, hand[5] - wrist))  # a left hand's: out of it
    radial = unit(hand[5] - hand[17])
    center = hand[[0, 5, 9, 13, 17]].mean(axis=0)
    depth = 1.6 * SKIN
    on_hand = {
        "Palm": (center, palm),
        "PalmBack": (center, -palm),
        "FingerFront": (hand[list(PIP_JOINTS)].mean(axis=0), palm),
        "FingerBack": (hand[list(PIP_JOINTS)].mean(axis=0), -palm),
        "FingerTip": (hand[list(FINGERTIPS)].mean(axis=0), finger_axis),
        "FingerRadial": (0.5 * (hand[5] + hand[6]), radial),
        "FingerUlnar": (0.5 * (hand[17] + hand[18]), -radial),
        "Heel": (wrist + 0.25 * (hand[list(MCP_JOINTS)].mean(axis=0) - wrist), palm),
        "HandAway": (center + 0.11 * unit(palm + _vector(0, 0.6, 0)) + _vector(0, 0, 0.09), palm),
        "Other": (center, palm),
    }
    if minor in on_hand:
        point, normal = on_hand[minor]
        point = point + _height(hand, point, normal) * normal
        finger, facing = _TO_HAND
        if minor == "FingerTip":
            finger, facing = _vector(0.82, -0.05, -0.15), _vector(0.05, -0.6, -0.8)
        return Place(
            point + depth * normal,
            normal,
            finger,
            facing,
            _vector(-0.09, 0.045, 0.03),
            _vector(-0.09, 0.10, 0.05),
            False,
        )
    bone = wrist - elbow
    side = unit(np.cross(bone, _vector(0, 0, 1)))
    up = side if side[1] > 0 else -side
    outward = unit(0.75 * up + 0.65 * _vector(0, 0, 1))
    on_arm = {
        "WristBack": (elbow + 0.92 * bone, outward),
        "WristFront": (elbow + 0.92 * bone, outward),
        "ForearmBack": (elbow + 0.55 * bone, outward),
        "ForearmFront": (elbow + 0.55 * bone, outward),
        "ForearmUlnar": (elbow + 0.55 * bone, unit(-up + 0.5 * _vector(0, 0, 1))),
        "ForearmRadial": (elbow + 0.55 * bone, up),
        "ElbowBack": (elbow, unit(_vector(-0.4, -0.3, 0.85))),
        "ElbowFront": (elbow + 0.12 * bone, unit(_vector(-0.2, 0.4, 0.9))),
        "UpperArm": (shoulder + 0.5 * (elbow - shoulder) + _vector(0, 0, 0.03), unit(_vector(-0.2, 0.1, 1.0))),
        "ArmAway": (elbow + 0.6 * bone + 0.09 * outward, outward),
    }
    point, normal = on_arm[minor]
    finger = _vector(0.86, 0.10, -0.30) if minor == "UpperArm" else _vector(0.78, -0.40, -0.15)
    palm_to = _vector(0.1, -0.1, -0.95) if minor == "UpperArm" else _vector(-0.05, -0.55, -0.80)
    # A path across would take the forearm through the chest: on the upper arm it goes down.
    along = _vector(0.01, -0.10, 0.03) if minor == "UpperArm" else 0.8 * _SIDEWAYS
    return Place(point + 3 * SKIN * normal, normal, finger, palm_to, along, _vector(-0.08, 0.11, 0.05), False)


def _height(hand: np.ndarray, point: np.ndarray, normal: np.ndarray) -> float:
    """Metres by which folded fingers of a hand [21, 3] rise above a point of it: then it is they that are touched."""
    across = hand - point
    above = across @ normal
    beside = np.linalg.norm(across - above[:, None] * normal, axis=1)
    return max(float(above[beside < _TOUCHED_REGION].max(initial=0.0)), 0.0)


def unit(vector: np.ndarray) -> np.ndarray:
    """Vectors [..., 3] scaled to length 1."""
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-9)


def two_bones(
    root: np.ndarray, end: np.ndarray, lengths: tuple[float, float], pole: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Two-bone inverse kinematics.

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
    """A right arm that brings its wrist to [T, 3]: elbow [T, 3] and wrist [T, 3], see `two_bones`."""
    return two_bones(body.shoulder_right, wrist, (body.upper_arm, body.forearm), pole)


def reference_point(hand: np.ndarray, selected: str, flexion: str, in_space: bool) -> np.ndarray:
    """What is brought to a place: the middle of the hand in free space, else the part of the hand that
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
    """The 75 points in MediaPipe order: elbows [2, T, 3] and hands [2, T, 21, 3], right then left -> [T, 75, 3].

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
