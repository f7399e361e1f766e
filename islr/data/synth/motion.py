"""A sign in time: rest -> onset -> stroke -> offset -> rest, from the phonology of one lexicon row.

Legend: T frames. Positions follow minimum-jerk profiles (Flash & Hogan 1985). All paths are computed for a
right-handed signer; the other hand is planned in its own mirrored frame, and a left-handed signer is the mirror image
of the whole performance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from islr.data.synth import hand as hands
from islr.data.synth.arm import Arm, Stance, articulate, hand_frame
from islr.data.synth.body import (
    HOVER,
    LOCATIONS,
    MIRROR,
    Body,
    Place,
    base_pose,
    fixed_place,
    place_on_other_arm,
    reference_point,
)
from islr.data.synth.lexicon import Sign
from islr.data.synth.path import Timeline, clip_timeline, progress_of, stroke_path

_TWIST = np.radians(62.0)  # wrist twist to either side of the middle
_TOUCH_GAP = 0.034  # metres from the middle of the body, for hands that touch each other
_APERTURE = 0.9  # share of the way to the partner aperture
# Rest postures of a right hand: wrist, finger, palm.
REST = {
    "clasped": (
        np.array([-0.085, -0.395, 0.190]),
        np.array([0.80, -0.35, 0.10]),
        np.array([0.15, -0.25, -0.95]),
    ),
    "low": (np.array([-0.190, -0.385, 0.150]), np.array([0.45, -0.85, 0.12]), np.array([0.30, 0.10, -0.95])),
    "sides": (
        np.array([-0.245, -0.400, 0.080]),
        np.array([0.12, -0.98, 0.10]),
        np.array([0.80, 0.10, -0.55]),
    ),
}


@dataclass(frozen=True)
class Style:
    """How one signer moves in one clip."""

    rest: str = "low"
    tempo: float = 1.0  # larger is faster
    amplitude: float = 1.0
    location_noise: float = 0.0  # metres, standard deviation
    handshape_noise: float = 0.0  # degrees, standard deviation
    sway: float = 0.0  # metres
    left_handed: bool = False


@dataclass(frozen=True)
class Performance:
    """One performed sign in the body frame; side 0 is the signer's right, side 1 the left.

    Attributes:
        elbows: [2, T, 3]. hands: [2, T, 21, 3], joint 0 is the wrist.
        palms: [2, T, 3] unit normals out of the palms.
        pads: [2, T, 4, 3 segments, 3] unit normals out of the palmar side of every finger segment.
        sway: [T, 3] offset of the whole body.
        stroke: first and last frame of the stroke.
    """

    elbows: np.ndarray
    hands: np.ndarray
    palms: np.ndarray
    pads: np.ndarray
    sway: np.ndarray
    stroke: tuple[int, int]


def sign_posture(sign: Sign) -> hands.HandConfig:
    """The dominant hand at onset."""
    return hands.posture(
        sign.selected_fingers,
        sign.flexion,
        sign.spread,
        sign.thumb_position,
        sign.thumb_contact,
        hands.HANDSHAPES[sign.handshape].unselected_open,
    )


def _changed_posture(sign: Sign) -> hands.HandConfig | None:
    """The dominant hand at the end of an aperture or spread change; None when the handshape holds."""
    flexion = (
        hands.APERTURE_PARTNER[sign.flexion] if sign.flexion_change == "1" and sign.flexion != "NA" else sign.flexion
    )
    if sign.flexion == "Curved" and sign.flexion_change == "1" and sign.thumb_contact == "1":
        flexion = "FullyOpen"
    spread = {"1": "0"}.get(sign.spread, "1") if sign.spread_change == "1" else sign.spread
    if (flexion, spread) == (sign.flexion, sign.spread):
        return None
    contact = "0" if flexion == "FullyOpen" else sign.thumb_contact
    open_fingers = hands.HANDSHAPES[sign.handshape].unselected_open
    return hands.posture(sign.selected_fingers, flexion, spread, sign.thumb_position, contact, open_fingers)


def _postures(onset: hands.HandConfig, end: hands.HandConfig | None, change: np.ndarray) -> hands.HandConfig:
    return onset.blend(end if end is not None else onset, _APERTURE * change)


def _ends(sign: Sign, first: Place, second: Place | None, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of the stroke's reference path."""
    touching = sign.contact == "1" or sign.major_location == "Neutral" or sign.minor_location.endswith("Away")
    point = first.point if touching else first.point + HOVER * first.normal
    if sign.movement == "None":
        return point, point
    minor = sign.second_minor_location
    if second is not None:
        return point, second.point if touching else second.point + HOVER * second.normal
    if minor.endswith("Away") and not sign.minor_location.endswith("Away"):
        return point, point + 1.15 * size * first.away
    if minor == "NA" and sign.contact == "1" and sign.movement in ("Straight", "Curved"):
        return point + size * first.away, point  # no second place: the hand comes to the first
    return point - 0.5 * size * first.along, point + 0.5 * size * first.along


def perform(sign: Sign, body: Body, style: Style, fps: float, rng: np.random.Generator) -> Performance:
    """Perform a sign once. All randomness comes from `rng`; the same arguments give the same performance."""
    repeated = sign.repeated_movement == "1"
    timeline = clip_timeline(sign.movement, repeated, style.tempo, fps, rng)
    frames = len(timeline.phase)
    offset = rng.normal(0.0, style.location_noise, 3)
    size = style.amplitude * rng.uniform(0.94, 1.06)
    onset = sign_posture(sign).perturbed(rng, style.handshape_noise)
    change = progress_of(timeline.phase, repeated)[0]
    if sign.movement == "None" and repeated and sign.flexion_change != "1" and sign.ulnar_rotation != "1":
        trill = (
            9.0
            * np.sin(2 * np.pi * (3 * timeline.phase[:, None] + np.arange(4) / 4))
            * (timeline.phase[:, None] % 1 > 0)
        )
    else:
        trill = np.zeros((frames, 4))
    posture = _postures(onset, _changed_posture(sign), change)
    flexion = posture.flexion.copy()
    flexion[:, :, 0] = np.clip(flexion[:, :, 0] + trill, -8, 90)
    posture = replace(posture, flexion=flexion)
    twist = _TWIST * (2 * change - 1) if sign.ulnar_rotation == "1" else np.zeros(frames)

    mirrored = sign.sign_type in ("SymmetricalOrAlternating", "SymmetryViolation")
    rest = _jittered(REST[style.rest], rng)
    other_shape = sign.other_handshape()
    other_posture = (
        None if other_shape is None else hands.named_posture(other_shape).perturbed(rng, style.handshape_noise)
    )
    base = base_pose(*first_place(sign))
    if base is None and sign.sign_type not in ("OneHanded", "SymmetricalOrAlternating", "SymmetryViolation"):
        # an unequal pair of hands away from each other: the other hand waits
        base = base_pose("Hand", "Palm")
    still = np.zeros(frames)
    other: Arm | None = None
    if not mirrored:
        other = _other_arm(body, timeline, base, other_posture or hands.RELAXED, rest, still).mirrored()

    def place(region: str | None, minor: str) -> Place | None:
        """Where a place is in this performance; None for a place on a hand that does not take part."""
        if region in ("Hand", "Arm"):
            if other is None or base is None:
                return None if minor != "UpperArm" or other is None else on_other(minor)
            return on_other(minor)
        return None if region is None else fixed_place(body, region, minor, mirrored)

    def on_other(minor: str) -> Place:
        assert other is not None
        held = int(np.argmax(timeline.envelope))
        return place_on_other_arm(minor, other.hand[held], other.elbow[held], body.shoulder_right * MIRROR)

    region, minor = first_place(sign)
    first = place(region, minor) or fixed_place(body, "Neutral", "Neutral", mirrored)
    moves_on = sign.second_minor_location != sign.minor_location and not sign.second_minor_location.endswith(
        ("Away", "Other")
    )
    second = place(sign.second_region(), sign.second_minor_location) if moves_on else None
    if mirrored and sign.major_location == "Neutral" and sign.contact == "1":
        first = first._replace(point=np.array([-_TOUCH_GAP * body.hand, first.point[1], first.point[2]]))
    if sign.contact == "1" and sign.major_location != "Neutral":
        offset = offset - (offset @ first.normal) * first.normal  # stay in touch
    start, end = _ends(sign, first, second, size)
    in_space = sign.major_location == "Neutral" or sign.minor_location.endswith("Away")
    local = hands.joints(onset.blend(onset, np.zeros(1)))[0] * body.hand
    reference = reference_point(local, sign.selected_fingers, sign.flexion, in_space)
    rotation = hand_frame(first.finger, first.palm)
    points = stroke_path(sign.movement, start, end, timeline.phase, repeated, size) + offset
    if mirrored:  # each hand keeps to its own side
        points[:, 0] -= max(float(points[:, 0].max()) + _TOUCH_GAP * body.hand, 0.0)
    dominant = articulate(body, timeline, points, rotation, twist, posture, reference, rest)
    if other is None:
        points_other, posture_other = points, posture
        if alternates(sign):
            points_other = (
                points.min(axis=0) + points.max(axis=0) - points
            )  # half a cycle apart: the path turned around
        if sign.sign_type == "SymmetryViolation" and other_posture is not None:
            posture_other = _postures(other_posture, None, np.zeros(frames))
        other = articulate(body, timeline, points_other, rotation, twist, posture_other, reference, rest).mirrored()
    return _assemble(dominant, other, _sway(frames, fps, style.sway, rng), timeline.stroke, style.left_handed)


def first_place(sign: Sign) -> tuple[str, str]:
    """Region and place of the first location; a place the region does not have becomes its middle."""
    region = sign.major_location
    if region not in LOCATIONS:
        return "Neutral", "Neutral"
    if sign.minor_location in LOCATIONS[region]:
        return region, sign.minor_location
    return region, {"Head": "Mouth", "Body": "TorsoTop", "Hand": "Palm", "Arm": "ForearmBack"}.get(region, "Neutral")


def alternates(sign: Sign) -> bool:
    """Whether a two-handed sign is drawn out of phase: the table does not say, so repeated circles and swings
    in space do.
    """
    return (
        sign.sign_type == "SymmetricalOrAlternating"
        and sign.repeated_movement == "1"
        and sign.contact == "0"
        and sign.movement in ("Circular", "BackAndForth")
    )


def _other_arm(
    body: Body,
    timeline: Timeline,
    base: Stance | None,
    config: hands.HandConfig,
    rest: Stance,
    still: np.ndarray,
) -> Arm:
    """The other arm of a sign whose hands do not mirror each other: held as a base, or resting."""
    wrist, finger, palm = base if base is not None else rest
    if base is None:
        timeline = replace(timeline, lift=still)
        config = hands.RELAXED
    points = np.tile(wrist, (len(still), 1))
    postures = config.blend(config, still)
    return articulate(body, timeline, points, hand_frame(finger, palm), still, postures, np.zeros(3), rest)


def _jittered(rest: Stance, rng: np.random.Generator) -> Stance:
    wrist, finger, palm = rest
    return (
        wrist + rng.normal(0.0, 0.008, 3),
        finger + rng.normal(0.0, 0.06, 3),
        palm + rng.normal(0.0, 0.06, 3),
    )


def _sway(frames: int, fps: float, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Slow drift of the body [T, 3]: two sines per axis."""
    time = np.arange(frames)[:, None] / fps
    phase, speed = rng.uniform(0, 2 * np.pi, (2, 3)), rng.uniform(0.25, 0.7, (2, 3))
    waves = np.sin(2 * np.pi * speed[0] * time + phase[0]) + 0.5 * np.sin(4 * np.pi * speed[1] * time + phase[1])
    return amount * waves * np.array([1.0, 0.4, 0.5])


def _assemble(dominant: Arm, other: Arm, sway: np.ndarray, stroke: tuple[int, int], left_handed: bool) -> Performance:
    right, left = (other.mirrored(), dominant.mirrored()) if left_handed else (dominant, other)
    return Performance(
        elbows=np.stack([right.elbow, left.elbow]),
        hands=np.stack([right.hand, left.hand]),
        palms=np.stack([right.palm, left.palm]),
        pads=np.stack([right.pads, left.pads]),
        sway=sway,
        stroke=stroke,
    )
