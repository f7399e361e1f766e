"""Places of articulation on head, torso, arms and hands, and how a hand meets them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from islr.synth.kinematics.body import SKIN, Body, unit
from islr.synth.kinematics.hand import FINGERTIPS, MCP_JOINTS, PIP_JOINTS

HOVER = 0.09  # metres between hand and place in a sign without contact


_TOUCHED_REGION = 0.045  # metres around a place on a hand in which folded fingers cover it


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
    """Return wrist, finger and palm of the other hand when it, or its arm, is the place; else None."""
    if major == "Hand":
        finger, palm = _BASE_HAND[_BASE_LIKE.get(minor, minor)]
        return _BASE_WRIST, finger, palm
    if major == "Arm" and minor != "UpperArm":
        if minor == "ElbowBack":
            return _BASE_ARM_UP
        return _BASE_ARM_FRONT if minor.endswith("Front") else _BASE_ARM
    return None


def fixed_place(body: Body, major: str, minor: str, two_handed: bool) -> Place:
    """Return a place on the head, on the torso or in neutral space. In two-handed signs each hand keeps to its own
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
    """Return a place on the other hand or arm, from where that arm is held: hand [21, 3], elbow [3], shoulder [3]."""
    return _place_on_hand(minor, hand) if minor in HAND_PLACES else _place_on_arm(minor, hand[0], elbow, shoulder)


def _place_on_hand(minor: str, hand: np.ndarray) -> Place:
    wrist = hand[0]
    finger_axis = unit(hand[9] - wrist)
    palm = unit(np.cross(hand[17] - wrist, hand[5] - wrist))  # a left hand's: out of it
    radial = unit(hand[5] - hand[17])
    center = hand[[0, 5, 9, 13, 17]].mean(axis=0)
    point, normal = {
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
    }[minor]
    point = point + _height(hand, point, normal) * normal
    finger, facing = _TO_HAND
    if minor == "FingerTip":
        finger, facing = _vector(0.82, -0.05, -0.15), _vector(0.05, -0.6, -0.8)
    along, away = _vector(-0.09, 0.045, 0.03), _vector(-0.09, 0.10, 0.05)
    return Place(point + 1.6 * SKIN * normal, normal, finger, facing, along, away, False)


def _place_on_arm(minor: str, wrist: np.ndarray, elbow: np.ndarray, shoulder: np.ndarray) -> Place:
    bone = wrist - elbow
    side = unit(np.cross(bone, _vector(0, 0, 1)))
    up = side if side[1] > 0 else -side
    outward = unit(0.75 * up + 0.65 * _vector(0, 0, 1))
    point, normal = {
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
    }[minor]
    finger = _vector(0.86, 0.10, -0.30) if minor == "UpperArm" else _vector(0.78, -0.40, -0.15)
    palm = _vector(0.1, -0.1, -0.95) if minor == "UpperArm" else _vector(-0.05, -0.55, -0.80)
    # A path across would take the forearm through the chest: on the upper arm it goes down.
    along = _vector(0.01, -0.10, 0.03) if minor == "UpperArm" else 0.8 * _SIDEWAYS
    return Place(point + 3 * SKIN * normal, normal, finger, palm, along, _vector(-0.08, 0.11, 0.05), False)


def _height(hand: np.ndarray, point: np.ndarray, normal: np.ndarray) -> float:
    """Return the metres by which folded fingers of a hand [21, 3] rise above a point of it and so are touched first."""
    across = hand - point
    above = across @ normal
    beside = np.linalg.norm(across - above[:, None] * normal, axis=1)
    return max(float(above[beside < _TOUCHED_REGION].max(initial=0.0)), 0.0)
