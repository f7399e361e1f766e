"""What both hands do in the stroke of one sign, from the phonology of one lexicon row.

Legend: T frames. All paths are computed for a right-handed signer; the other hand is planned in its own mirrored frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from islr.synth.kinematics import hand as hands
from islr.synth.kinematics.arm import Stance, Track, follow, from_rest_and_back, hand_frame, stroke_track
from islr.synth.kinematics.body import MIRROR, Body, reference_point
from islr.synth.kinematics.orientation import held
from islr.synth.kinematics.path import Timeline, progress_of, stroke_path
from islr.synth.kinematics.places import HOVER, LOCATIONS, Place, base_pose, fixed_place, place_on_other_arm
from islr.synth.lexicon import AWAY, Sign

_TWIST = np.radians(62.0)  # wrist twist to either side of the middle
# Metres of an average hand from the middle of the body to the nearest joint, of hands that touch each other and of
# hands that do not.
_TOUCHING, _APART = 0.008, 0.042
_RUBBING = ("Circular", "BackAndForth", "Z-shaped", "X-shaped", "Other")  # paths that stay on what they touch
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
class Strokes:
    """What both hands do in one sign, before rest and neighbours have a say.

    Attributes:
        rest: Where the hands rest in this take.
        dominant, other: One frame each for every frame of the timeline; the other hand in its own mirrored frame.
        other_waits: The other hand takes no part.
    """

    rest: Stance
    dominant: Track
    other: Track
    other_waits: bool


def sign_posture(sign: Sign) -> hands.HandConfig:
    """Return the dominant hand at onset."""
    return hands.posture(
        sign.selected_fingers,
        sign.flexion,
        sign.spread,
        sign.thumb_position,
        sign.thumb_contact,
        hands.HANDSHAPES[sign.handshape].unselected_open,
    )


def _changed_posture(sign: Sign) -> hands.HandConfig | None:
    """Return the dominant hand at the end of an aperture or spread change; None when the handshape holds."""
    if sign.selected_fingers == "t":
        return hands.thumb_bent(sign_posture(sign)) if sign.flexion_change == "1" else None
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
    """Return the start and end of the stroke's reference path."""
    touching = sign.contact == "1" or sign.major_location == "Neutral" or sign.minor_location.endswith("Away")
    point = first.point if touching else first.point + HOVER * first.normal
    if sign.movement == "None":
        return point, point
    minor = sign.second_minor_location
    if second is not None:
        touched = sign.contact == "1" or sign.second_minor_location in ("Neutral", *AWAY)
        return point, second.point if touched else second.point + HOVER * second.normal
    if minor.endswith("Away") and not sign.minor_location.endswith("Away"):
        return point, point + 1.15 * size * first.away
    if minor == "NA" and sign.contact == "1" and sign.movement in ("Straight", "Curved"):
        return point + size * first.away, point  # no second place: the hand comes to the first
    return point - 0.5 * size * first.along, point + 0.5 * size * first.along


def plan_strokes(sign: Sign, body: Body, style: Style, timeline: Timeline, rng: np.random.Generator) -> Strokes:
    """Plan a sign once. All randomness comes from `rng`; the same arguments give the same strokes."""
    repeated, frames = sign.repeated_movement == "1", len(timeline.phase)
    offset = rng.normal(0.0, style.location_noise, 3)
    size = style.amplitude * rng.uniform(0.94, 1.06)
    onset = sign_posture(sign).perturbed(rng, style.handshape_noise)
    change = progress_of(timeline.phase, repeated)[0]
    posture = _moving_posture(sign, onset, timeline.phase, change)
    twist = _TWIST * (2 * change - 1) if sign.ulnar_rotation == "1" else np.zeros(frames)
    rest = _jittered(REST[style.rest], rng)
    shape = sign.other_handshape()
    other_posture = None if shape is None else hands.named_posture(shape).perturbed(rng, style.handshape_noise)
    mirrored = sign.sign_type in ("SymmetricalOrAlternating", "SymmetryViolation")
    other = None if mirrored else _other_hand(sign, body, timeline, other_posture or hands.RELAXED, rest)

    first, second = _places(sign, body, other)
    if sign.contact == "1" and sign.major_location != "Neutral":
        offset = offset - (offset @ first.normal) * first.normal  # stay in touch
    start, end = _ends(sign, first, second, size)
    in_space = sign.major_location == "Neutral" or sign.minor_location.endswith("Away")
    local = hands.joints(onset.blend(onset, np.zeros(1)))[0] * body.hand
    reference = reference_point(local, sign.selected_fingers, sign.flexion, in_space)
    rotation = held(body, first, local, sign, in_space)
    points = stroke_path(sign.movement, start, end, timeline.phase, repeated, size) + offset
    if not in_space and second is None:
        points = _off_the_skin(points, first, sign)
    dominant = stroke_track(body, points, rotation, twist, posture, reference)
    if other is not None:
        return Strokes(rest, dominant, other.track, not other.is_place)
    points_other, posture_other = points, posture
    if alternates(sign):  # half a cycle apart: the path turned around
        points_other = points.min(axis=0) + points.max(axis=0) - points
    if other_posture is not None and sign.nondominant_handshape != sign.handshape:
        posture_other = _postures(other_posture, None, np.zeros(frames))
    mirror = stroke_track(body, points_other, rotation, twist, posture_other, reference)
    dominant, mirror = _each_on_its_side(body, sign, dominant, mirror)
    return Strokes(rest, dominant, mirror, False)


def _moving_posture(sign: Sign, onset: hands.HandConfig, phase: np.ndarray, change: np.ndarray) -> hands.HandConfig:
    """Return the dominant hand in every frame: its aperture or spread changes, or its fingers wiggle."""
    posture = _postures(onset, _changed_posture(sign), change)
    flexion = posture.flexion.copy()
    still = sign.movement == "None" and sign.flexion_change != "1" and sign.ulnar_rotation != "1"
    if still and sign.repeated_movement == "1":
        trill = 9.0 * np.sin(2 * np.pi * (3 * phase[:, None] + np.arange(4) / 4)) * (phase[:, None] % 1 > 0)
    else:
        trill = np.zeros((len(phase), 4))
    flexion[:, :, 0] = np.clip(flexion[:, :, 0] + trill, -8, 90)
    return replace(posture, flexion=flexion)


@dataclass(frozen=True)
class _OtherHand:
    """The other hand of a sign whose hands do not mirror each other.

    Attributes:
        track: Where it goes, in its own mirrored frame.
        hand, elbow: Joints [21, 3] and [3] in the middle of the stroke, when it can be a place.
        is_place: Whether it is held as a place; otherwise it waits and takes no part.
    """

    track: Track
    hand: np.ndarray
    elbow: np.ndarray
    is_place: bool


def _other_hand(sign: Sign, body: Body, timeline: Timeline, config: hands.HandConfig, rest: Stance) -> _OtherHand:
    """Hold the other hand as the place of the sign, or let it rest."""
    base = base_pose(*first_place(sign))
    if base is None and sign.sign_type != "OneHanded":
        base = base_pose("Hand", "Palm")  # two different hands away from each other: the other one waits
    track = _other_track(body, len(timeline.phase), base, config, rest)
    moves = quiet(timeline) if base is None else timeline
    arm = follow(body, from_rest_and_back(track, moves, rest)).mirrored()
    there = int(np.argmax(timeline.envelope))
    return _OtherHand(track, arm.hand[there], arm.elbow[there], base is not None)


def _places(sign: Sign, body: Body, other: _OtherHand | None) -> tuple[Place, Place | None]:
    """Return the first place of a sign, and the second where the path ends at one."""

    def place(region: str | None, minor: str) -> Place | None:
        """Return a place in this performance; None for one on a hand that does not take part."""
        if region not in ("Hand", "Arm"):
            return None if region is None else fixed_place(body, region, minor, other is None)
        if other is None or not (other.is_place or minor == "UpperArm"):
            return None
        return place_on_other_arm(minor, other.hand, other.elbow, body.shoulder_right * MIRROR)

    first = place(*first_place(sign)) or fixed_place(body, "Neutral", "Neutral", other is None)
    goal = sign.second_minor_location
    if goal == sign.minor_location or goal.endswith(("Away", "Other")):
        return first, None
    return first, place(sign.second_region(), goal)


def _off_the_skin(points: np.ndarray, place: Place, sign: Sign) -> np.ndarray:
    """Keep a path [T, 3] at a place of the body no nearer to it than coded; a rubbing path stays on it."""
    height = (points - place.point) @ place.normal
    if sign.contact == "1":
        lift = -height if sign.movement in _RUBBING else np.maximum(-height, 0.0)
    else:
        lift = np.maximum(HOVER - height, 0.0)
    return points + lift[:, None] * place.normal


def _each_on_its_side(body: Body, sign: Sign, dominant: Track, other: Track) -> tuple[Track, Track]:
    """Move both hands of a sign that mirrors them apart so that they do not cross; hands that touch each other in
    space come together until they do.
    """
    inmost = max(
        float(
            (track.wrist[:, None] + hands.joints(track.config) @ (track.frame.transpose(0, 2, 1) * body.hand)).max(
                axis=(0, 1)
            )[0]
        )
        for track in (dominant, other)
    )
    if sign.contact == "1" and sign.major_location == "Neutral":
        shift = -_TOUCHING * body.hand - inmost
    else:
        shift = min(-(_TOUCHING if sign.contact == "1" else _APART) * body.hand - inmost, 0.0)
    move = np.array([shift, 0.0, 0.0])
    return replace(dominant, wrist=dominant.wrist + move), replace(other, wrist=other.wrist + move)


def first_place(sign: Sign) -> tuple[str, str]:
    """Return the region and place of the first location; a place the region does not have becomes its middle."""
    region = sign.major_location
    if region not in LOCATIONS:
        return "Neutral", "Neutral"
    if sign.minor_location in LOCATIONS[region]:
        return region, sign.minor_location
    return region, {"Head": "Mouth", "Body": "TorsoTop", "Hand": "Palm", "Arm": "ForearmBack"}.get(region, "Neutral")


def alternates(sign: Sign) -> bool:
    """Return whether a two-handed sign is drawn out of phase: the table does not say, so repeated circles and swings
    in space do.
    """
    return (
        sign.sign_type == "SymmetricalOrAlternating"
        and sign.repeated_movement == "1"
        and sign.contact == "0"
        and sign.movement in ("Circular", "BackAndForth")
    )


def quiet(timeline: Timeline) -> Timeline:
    """Return the timeline of a hand that stays down: nothing lifts it."""
    return replace(timeline, lift=np.zeros_like(timeline.lift))


def _other_track(body: Body, frames: int, base: Stance | None, config: hands.HandConfig, rest: Stance) -> Track:
    """Return the other hand of a sign whose hands do not mirror each other: held as a base, or resting."""
    wrist, finger, palm = base if base is not None else rest
    if base is None:
        config = hands.RELAXED
    still = np.zeros(frames)
    points = np.tile(wrist, (frames, 1))
    return stroke_track(body, points, hand_frame(finger, palm), still, config.blend(config, still), np.zeros(3))


def _jittered(rest: Stance, rng: np.random.Generator) -> Stance:
    wrist, finger, palm = rest
    return (
        wrist + rng.normal(0.0, 0.008, 3),
        finger + rng.normal(0.0, 0.06, 3),
        palm + rng.normal(0.0, 0.06, 3),
    )
