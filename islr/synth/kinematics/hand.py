"""Hands: ASL-LEX handshape features -> joint angles -> 21 joints in MediaPipe order.

Legend: T frames. The hand frame is that of a right hand: x to the thumb side, y along the middle finger, z out of the
palm; the wrist is the origin; units are metres of an average hand. A left hand is the mirror image of this one.
Joint order: 0 wrist, 1-4 thumb, 5-8 index, 9-12 middle, 13-16 ring, 17-20 pinky.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from islr.synth.kinematics.handshapes import HANDSHAPES

FINGERS = "imrp"  # ASL-LEX letters: index, middle, ring, pinky; "t" alone means the thumb
FINGERTIPS = (8, 12, 16, 20)
PIP_JOINTS = (6, 10, 14, 18)
MCP_JOINTS = (5, 9, 13, 17)

_MCP = np.array([[0.028, 0.090, 0.000], [0.008, 0.095, 0.003], [-0.013, 0.089, 0.002], [-0.032, 0.078, -0.003]])
_PHALANGES = np.array([[0.044, 0.027, 0.021], [0.048, 0.031, 0.022], [0.044, 0.029, 0.022], [0.034, 0.021, 0.019]])
_THUMB_BASE = np.array([0.026, 0.020, 0.006])
_THUMB = np.array([0.044, 0.035, 0.029])  # metacarpal, proximal, distal
_FINGER_DEPTH = 0.008  # from the bone to the skin of the pad, where the thumb touches

# Flexion of (MCP, PIP, DIP) in degrees for each level of Flexion.2.0: Flat bends at the knuckle only, Bent at
# the PIP joint only.
FLEXION: dict[str, tuple[float, float, float]] = {
    "FullyOpen": (2, 3, 2),
    "Curved": (28, 46, 28),
    "Flat": (78, 6, 4),
    "Bent": (12, 100, 55),
    "FullyClosed": (84, 102, 62),
    "Stacked": (10, 6, 4),  # each further finger is lowered by _STACK_STEP
    "Crossed": (4, 5, 3),  # index and middle cross by their abduction
}
# With the thumb touching, the fingers come further round to meet it.
_FLEXION_WITH_CONTACT: dict[str, tuple[float, float, float]] = {
    "Curved": (50, 56, 32),
    "Flat": (70, 14, 8),
    "Bent": (38, 88, 40),
}
_STACK_STEP = 42.0
# Aperture change goes from the coded onset level to this one; the table codes the onset only.
APERTURE_PARTNER = {
    "FullyOpen": "FullyClosed",
    "Curved": "FullyClosed",
    "Flat": "FullyOpen",
    "Bent": "FullyOpen",
    "FullyClosed": "FullyOpen",
    "Stacked": "FullyClosed",
    "Crossed": "FullyClosed",
}
_MAX_FLEXION = np.array([90.0, 112.0, 80.0])
_MIN_FLEXION = np.array([-8.0, 0.0, 0.0])

_SPREAD_OPEN = np.array([15.0, 3.0, -10.0, -24.0])  # abduction in degrees, index to pinky
_SPREAD_PAIR = np.array([15.0, -9.0, -10.0, -10.0])  # index and middle alone: V
_SPREAD_SHUT = np.array([1.0, 0.0, -1.0, -3.0])
_SPREAD_RELAXED = np.array([6.0, 1.0, -4.0, -10.0])
_SPREAD_BENT = 0.55  # share of the abduction that is left at a right angle
_CROSSED = np.array([-13.0, 10.0, 0.0, 0.0])

# Where the thumb tip goes, by posture.
_THUMB_TARGETS = {
    "wide": (0.108, 0.058, 0.012),  # out to the side: 5, L, Y
    "beside": (0.064, 0.106, 0.004),  # along the flat hand
    "up": (0.046, 0.122, 0.012),  # along the fist: A, 10
    "bent": (0.052, 0.088, 0.040),  # the thumb alone, bent
    "beside_fist": (0.040, 0.076, 0.034),  # against the side of the closed index finger
    "across": (-0.010, 0.074, 0.030),  # folded over the open palm: B, 4
    "over": (-0.004, 0.064, 0.066),  # over the closed fingers: S, 1, V
    "opposed": (0.052, 0.074, 0.078),  # facing curved fingers: C
    "under": (-0.012, 0.082, 0.030),  # below fingers that are folded over it: M, N
    "tucked": (0.004, 0.052, 0.046),  # under bent fingertips: E
}


@dataclass(frozen=True)
class HandConfig:
    """Joint angles of one hand posture (or, with a leading T axis, of a sequence of postures).

    Attributes:
        flexion: [..., 4, 3] degrees of MCP, PIP, DIP flexion, index to pinky; positive towards the palm.
        abduction: [..., 4] degrees, positive towards the thumb.
        thumb: [..., 3] target of the thumb tip in the hand frame.
        pinch: [...] in 0..1, how far the thumb tip is drawn from `thumb` to the pads of the touching fingers.
        touching: [..., 4] weights of the fingers the thumb touches, summing to 1.
    """

    flexion: np.ndarray
    abduction: np.ndarray
    thumb: np.ndarray
    pinch: np.ndarray
    touching: np.ndarray

    def blend(self, other: HandConfig, amount: np.ndarray) -> HandConfig:
        """Return the postures on the way to `other`; `amount` [T] is 0 here and 1 there. Both may carry a T axis
        themselves.
        """

        def mix(a: np.ndarray, b: np.ndarray, rank: int) -> np.ndarray:
            weight = amount.reshape((-1,) + (1,) * rank)
            return a * (1 - weight) + b * weight

        return HandConfig(
            mix(self.flexion, other.flexion, 2),
            mix(self.abduction, other.abduction, 1),
            mix(self.thumb, other.thumb, 1),
            mix(self.pinch, other.pinch, 0),
            mix(self.touching, other.touching, 1),
        )

    def at(self, part: slice) -> HandConfig:
        """Return some frames of a sequence of postures."""
        return HandConfig(*(getattr(self, field.name)[part] for field in fields(self)))

    def perturbed(self, rng: np.random.Generator, degrees: float) -> HandConfig:
        """Return the same posture as one person makes it once: every joint a little off, within anatomical limits."""
        flexion = self.flexion + rng.normal(0.0, degrees, self.flexion.shape) * np.array([1.0, 1.0, 0.6])
        abduction = self.abduction + rng.normal(0.0, degrees * 0.3, self.abduction.shape)
        thumb = self.thumb + rng.normal(0.0, degrees * 0.0005, self.thumb.shape)
        return replace(self, flexion=np.clip(flexion, _MIN_FLEXION, _MAX_FLEXION), abduction=abduction, thumb=thumb)


def joined(configs: list[HandConfig]) -> HandConfig:
    """Return sequences of postures one after the other."""
    return HandConfig(*(np.concatenate([getattr(c, field.name) for c in configs]) for field in fields(HandConfig)))


def _mask(letters: str) -> np.ndarray:
    return np.array([finger in letters for finger in FINGERS])


def _thumb_posture(selected: str, flexion: str, position: str, contact: str, wide: bool) -> str:
    """Return the name of the thumb target. Pinching is separate: it draws the tip from this target to the fingers."""
    if selected == "t":
        return "up" if position == "Open" else "over"
    if position == "Open":
        if flexion in ("Curved", "Bent") and not wide:
            return "opposed"
        if flexion == "FullyClosed":
            return "beside_fist" if contact == "1" else "up"
        if flexion == "Stacked":
            return "opposed"
        if flexion == "Flat" and (contact == "1" or selected in ("i", "im")):
            return "opposed"
        return "wide" if wide or selected in ("i", "p", "ip", "imp", "im") else "beside"
    if flexion == "Flat" and contact == "1":
        return "under"
    if selected == "imrp" and flexion in ("FullyOpen", "Flat", "Curved"):
        return "across"
    if flexion == "Bent" and contact == "1":
        return "tucked"
    return "over"


def posture(
    selected: str,
    flexion: str,
    spread: str,
    thumb_position: str,
    thumb_contact: str,
    unselected_open: str = "",
) -> HandConfig:
    """Return the posture coded by the five handshape features; every value is one of ASL-LEX 2.0's.

    Args:
        unselected_open: letters of unselected fingers that stay extended; the other unselected fingers close.
    """
    is_selected, stays_open = _mask(selected), _mask(unselected_open)
    angles = np.tile(np.array(FLEXION["FullyClosed"], dtype=float), (4, 1))
    angles[stays_open] = FLEXION["FullyOpen"]
    touches = thumb_contact == "1" and flexion not in ("FullyClosed", "NA")
    if selected != "t":
        level = _FLEXION_WITH_CONTACT.get(flexion, FLEXION[flexion]) if touches else FLEXION[flexion]
        angles[is_selected] = level
    if flexion == "Stacked":
        steps = np.maximum(np.cumsum(is_selected) - 1, 1 if selected == "m" else 0) * is_selected
        angles[:, 0] += np.minimum(steps, 2) * _STACK_STEP / (1 if selected in ("im", "m") else 2)
    fan = _SPREAD_PAIR if selected == "im" else _SPREAD_OPEN
    abduction = {"1": fan, "0": _SPREAD_SHUT}.get(spread, _SPREAD_RELAXED).copy()
    if flexion == "FullyClosed" and spread != "1":
        abduction = _SPREAD_SHUT.copy()
    abduction[~is_selected & ~stays_open] *= 0.25  # closed fingers lie together
    if unselected_open:
        abduction[stays_open] = _SPREAD_OPEN[stays_open]
    if flexion == "Crossed":
        abduction = _CROSSED.copy()
        angles[0, 0], angles[1, 0] = 2.0, 12.0
    name = _thumb_posture(selected, flexion, thumb_position, thumb_contact, wide=spread == "1")
    touching = is_selected.astype(float)
    if flexion == "Stacked":
        touching = _mask("m").astype(float)
    if not touching.any():
        touching = np.ones(4)
    thumb = np.array(_THUMB_TARGETS[name])
    pinch = 1.0 if touches and name not in ("tucked", "under") else 0.0
    return HandConfig(angles, abduction, thumb, np.array(pinch), touching / touching.sum())


def thumb_bent(config: HandConfig) -> HandConfig:
    """Return the posture with the thumb bent; a thumb selected alone has nothing but its flexion to change."""
    return replace(config, thumb=np.array(_THUMB_TARGETS["bent"]))


def named_posture(name: str) -> HandConfig:
    """Return the posture a handshape name stands for; the name must be in HANDSHAPES."""
    if name == "Lax":
        return RELAXED
    shape = HANDSHAPES[name]
    return posture(
        shape.selected,
        shape.flexion,
        shape.spread,
        shape.thumb_position,
        shape.thumb_contact,
        shape.unselected_open,
    )


def finger_directions(config: HandConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit direction and palmar normal of every finger segment, each [T, 4, 3 segments, 3]."""
    flexion = np.radians(np.cumsum(config.flexion, axis=-1))  # [T, 4, 3] total bend of each segment
    cos, sin = np.cos(flexion), np.sin(flexion)
    # The further a finger is bent, the less of its spread is left.
    left = _SPREAD_BENT + (1 - _SPREAD_BENT) * np.maximum(cos, 0.0)
    abduction = np.radians(config.abduction)[..., None] * left  # [T, 4, 3]
    across, along = np.sin(abduction), np.cos(abduction)
    direction = np.stack([across, along * cos, along * sin], axis=-1)
    normal = np.stack([np.zeros_like(sin), -sin, cos], axis=-1)
    return direction, normal


def joints(config: HandConfig) -> np.ndarray:
    """Solve the forward kinematics: HandConfig with a T axis -> [T, 21, 3] in the hand frame. Segment lengths never
    change.
    """
    direction, normal = finger_directions(config)
    frames = direction.shape[0]
    # [T, 4, 3, 3]
    chains = _MCP[None, :, None, :] + np.cumsum(direction * _PHALANGES[None, :, :, None], axis=2)
    out = np.zeros((frames, 21, 3))
    fingers = out[:, 5:].reshape(frames, 4, 4, 3)
    fingers[:, :, 0] = _MCP
    fingers[:, :, 1:] = chains
    pads = chains[:, :, 2] + normal[:, :, 2] * _FINGER_DEPTH  # [T, 4, 3]
    meeting = np.einsum("tf,tfc->tc", config.touching, pads)
    pinch = config.pinch[:, None]
    out[:, 1:5] = _thumb_chain(config.thumb * (1 - pinch) + meeting * pinch)
    return out


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-9)


def _thumb_chain(target: np.ndarray) -> np.ndarray:
    """Return the thumb joints [T, 4, 3] whose tip is at the target [T, 3], or as near as the thumb reaches."""
    rest_direction = _unit(np.array([0.62, 0.66, 0.42]))
    metacarpal = _unit(0.65 * rest_direction + 0.35 * _unit(target - _THUMB_BASE))
    knuckle = _THUMB_BASE + _THUMB[0] * metacarpal
    first, second = _THUMB[1], _THUMB[2]
    reach = target - knuckle
    distance = np.clip(np.linalg.norm(reach, axis=-1, keepdims=True), 0.4 * (first + second), 0.998 * (first + second))
    toward = _unit(reach)
    cosine = (first**2 + distance**2 - second**2) / (2 * first * distance)
    outward = np.array([0.9, 0.25, 0.3]) - (toward @ np.array([0.9, 0.25, 0.3]))[:, None] * toward
    bend = np.sqrt(np.maximum(1 - cosine**2, 0.0))
    middle = knuckle + first * (cosine * toward + bend * _unit(outward))
    tip = knuckle + distance * toward
    base = np.broadcast_to(_THUMB_BASE, knuckle.shape)
    return np.stack([base, knuckle, middle, tip], axis=1)


def contact_point(hand: np.ndarray, selected: str, flexion: str) -> np.ndarray:
    """Return the part of the hand that touches a location: [21, 3] joints -> [3]; fingertips, the palmar side of a fist
    between its fingers and thumb, or the thumb.
    """
    if selected == "t":
        return hand[4]
    which = [index for index, finger in enumerate(FINGERS) if finger in selected]
    if flexion == "FullyClosed":
        return 0.5 * (hand[[PIP_JOINTS[index] for index in which]].mean(axis=0) + hand[4])
    return hand[[FINGERTIPS[index] for index in which]].mean(axis=0)


RELAXED = HandConfig(
    flexion=np.array([[20.0, 28.0, 14.0], [26.0, 32.0, 16.0], [30.0, 34.0, 17.0], [32.0, 34.0, 17.0]]),
    abduction=np.array([5.0, 1.0, -3.0, -8.0]),
    thumb=np.array([0.066, 0.086, 0.030]),
    pinch=np.array(0.0),
    touching=np.full(4, 0.25),
)
