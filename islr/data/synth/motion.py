"""A sign in time: rest -> onset -> stroke -> offset -> rest, from the phonology of one lexicon row.

Legend: T frames. Positions follow minimum-jerk profiles (Flash & Hogan 1985). All paths are computed for a right-handed signer;
the other hand is planned in its own mirrored frame, and a left-handed signer is the mirror image of the whole performance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from islr.data.synth import hand as hands
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
    solve_arm,
    unit,
)
from islr.data.synth.lexicon import Sign

_TRANSIT = 0.22  # seconds from rest to onset, and back
# Seconds of a single stroke: longer paths take longer. Repeating takes _REPEAT times as long.
_STROKE = {
    **{"None": 0.50, "Straight": 0.52, "Curved": 0.58, "Circular": 0.68},
    **{"BackAndForth": 0.76, "Z-shaped": 0.80, "X-shaped": 0.84, "Other": 0.80},
}
_REPEAT = 1.42
_HOLD = 0.07  # seconds at the end of the stroke
_RADIUS = 0.068  # metres, circular movement
_TWIST = np.radians(62.0)  # wrist twist to either side of the middle
_WRIST_LIMIT = np.radians(72.0)  # largest angle between forearm and hand
_ELBOW_POLE = np.array([-0.55, -0.95, -0.25])
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


@dataclass(frozen=True)
class _Timeline:
    """Phases of a clip: envelope [T] 0 at rest, 1 during the stroke; phase [T] 0..1 through the stroke; lift [T] in transit."""

    envelope: np.ndarray
    phase: np.ndarray
    lift: np.ndarray
    stroke: tuple[int, int]


@dataclass(frozen=True)
class _Arm:
    elbow: np.ndarray  # [T, 3]
    hand: np.ndarray  # [T, 21, 3]
    palm: np.ndarray  # [T, 3]
    pads: np.ndarray  # [T, 4, 3, 3]

    def mirrored(self) -> _Arm:
        return _Arm(self.elbow * MIRROR, self.hand * MIRROR, self.palm * MIRROR, self.pads * MIRROR)


def minimum_jerk(time: np.ndarray) -> np.ndarray:
    """0 to 1 with zero velocity and acceleration at both ends; clipped outside."""
    t = np.clip(time, 0.0, 1.0)
    return t * t * t * (10 + t * (6 * t - 15))


def _rotation(finger: np.ndarray, palm: np.ndarray) -> np.ndarray:
    """Hand frame whose y is the finger direction and whose z is as near the palm direction as it can be: [3, 3]."""
    y = unit(finger)
    z = unit(palm - (palm @ y) * y)
    return np.stack([np.cross(y, z), y, z], axis=-1)


def _rotate(axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
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
    return start @ _rotate(unit(axis), angle * amount)


def _limit_wrist(rotation: np.ndarray, forearm: np.ndarray) -> np.ndarray:
    """Turn hands [T, 3, 3] back towards their forearm [T, 3] where the wrist would bend too far."""
    finger = rotation[:, :, 1]
    angle = np.arccos(np.clip(np.sum(finger * forearm, axis=-1), -1.0, 1.0))
    excess = np.maximum(angle - _WRIST_LIMIT, 0.0)
    return _rotate(unit(np.cross(finger, forearm)), excess) @ rotation


def _timeline(sign: Sign, style: Style, fps: float, rng: np.random.Generator) -> _Timeline:
    before, after = rng.uniform(0.03, 0.10, size=2)
    pace = style.tempo
    transit_in, transit_out = _TRANSIT / pace * rng.uniform(0.92, 1.08, size=2)
    stroke = (
        _STROKE[sign.movement] * (_REPEAT if sign.repeated_movement == "1" else 1.0) / pace * rng.uniform(0.94, 1.06)
    )
    hold = _HOLD / pace
    onset = before + transit_in
    offset = onset + stroke + hold
    frames = max(int(round((offset + transit_out + after) * fps)), 8)
    time = np.arange(frames) / fps
    rise, fall = (time - before) / transit_in, (time - offset) / transit_out
    envelope = minimum_jerk(rise) * (1 - minimum_jerk(fall))
    lift = np.sin(np.pi * np.clip(rise, 0, 1)) + np.sin(np.pi * np.clip(fall, 0, 1))
    first, last = np.searchsorted(time, [onset, onset + stroke])
    return _Timeline(
        envelope, np.clip((time - onset) / stroke, 0.0, 1.0), lift, (int(first), int(min(last, frames - 1)))
    )


def _progress(phase: np.ndarray, repeated: bool) -> tuple[np.ndarray, np.ndarray]:
    """How far the stroke is (0..1) and how far it is lifted off while it returns (0..1), both [T]."""
    if not repeated:
        return minimum_jerk(phase), np.zeros_like(phase)
    forth, back = minimum_jerk(phase / 0.38), minimum_jerk((phase - 0.38) / 0.24)
    again = minimum_jerk((phase - 0.62) / 0.38)
    return forth - back + again, np.sin(np.pi * np.clip((phase - 0.38) / 0.24, 0, 1))


def _path(
    movement: str, start: np.ndarray, end: np.ndarray, phase: np.ndarray, repeated: bool, size: float
) -> np.ndarray:
    """Reference points [T, 3] of a path movement from start to end."""
    chord = end - start
    length = max(float(np.linalg.norm(chord)), 1e-6)
    forward = chord / length if length > 1e-3 else np.array([-1.0, 0.0, 0.0])
    up = unit(np.array([0.0, 1.0, 0.25]) - (np.array([0.0, 1.0, 0.25]) @ forward) * forward)
    progress, lift = _progress(phase, repeated)
    along = start + progress[:, None] * chord
    if movement == "None":
        return np.broadcast_to(start, (len(phase), 3)).copy()
    if movement == "Straight":
        return along + 0.030 * size * lift[:, None] * np.array([0.0, 0.0, 1.0])
    if movement == "Curved":
        bulge = 0.62 * max(length, 0.06) * np.sin(np.pi * progress)
        return along + (bulge * (1 - 1.4 * lift))[:, None] * up
    if movement == "Circular":
        angle = 2 * np.pi * (2 if repeated else 1) * (0.25 * minimum_jerk(phase) + 0.75 * phase)
        center = start + 0.5 * chord
        drift = 0.25 * (minimum_jerk(phase) - 0.5)[:, None] * chord
        around = np.cos(angle)[:, None] * up + np.sin(angle)[:, None] * forward
        return center + drift + _RADIUS * size * around
    if movement == "BackAndForth":
        swings = 3 if repeated else 2
        swing = 0.5 + 0.5 * np.sin(2 * np.pi * swings * phase) * np.sqrt(np.sin(np.pi * np.clip(phase, 0, 1)))
        return start + swing[:, None] * chord
    span, drop = max(length, 0.10), 0.85 * max(length, 0.10)
    corners = {
        "Z-shaped": [(0, 0), (1, 0), (0, -1), (1, -1)],
        "X-shaped": [(0, 0), (1, -1), (1, 0), (0, -1)],
        # `Other` names no geometry; a wave is drawn and the row is counted as a fallback.
        "Other": [(0, 0), (0.25, -0.7), (0.5, 0), (0.75, -0.7), (1, 0)],
    }[movement]
    plane = np.array(corners, dtype=float)
    strokes = len(corners) - 1
    run = np.mod(phase * 2, 1.0) if repeated else phase
    if repeated:
        run = np.where(phase >= 1.0, 1.0, run)
    position = np.zeros((len(phase), 2))
    position += plane[0]
    for index in range(strokes):
        position += minimum_jerk(run * strokes - index)[:, None] * (plane[index + 1] - plane[index])
    points = start + position[:, :1] * span * forward + (position[:, 1:] + 0.5) * drop * up
    if repeated:  # the second tracing starts with a quick return, spread over a few frames
        points = _smoothed(points)
    return points


def _smoothed(points: np.ndarray) -> np.ndarray:
    padded = np.concatenate([points[:1], points[:1], points, points[-1:], points[-1:]])
    kernel = np.array([0.1, 0.22, 0.36, 0.22, 0.1])
    return np.stack([np.convolve(padded[:, axis], kernel, mode="valid") for axis in range(3)], axis=-1)


def _articulate(
    body: Body,
    timeline: _Timeline,
    points: np.ndarray,
    rotation: np.ndarray,
    twist: np.ndarray,
    posture: hands.HandConfig,
    reference: np.ndarray,
    rest: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> _Arm:
    """One right arm: reference points [T, 3] of the stroke, hand frame [3, 3], twist [T], postures -> the arm in time.

    `reference` [3] is the point of the hand, in metres of this body, that is brought to `points`.
    """
    middle = points.mean(axis=0, keepdims=True)
    for _ in range(3):  # the wrist limit turns the hand, which moves the wrist, which turns the forearm
        elbow, wrist = solve_arm(body, middle - rotation @ reference, _ELBOW_POLE)
        rotation = _limit_wrist(rotation[None], unit(wrist - elbow))[0]
    up = np.tile(np.array([0.0, 1.0, 0.0]), (len(points), 1))
    turned = rotation @ _rotate(up, twist)
    wrist_stroke = points - turned @ reference
    rest_wrist, rest_finger, rest_palm = rest
    share = timeline.envelope[:, None]
    wrist = rest_wrist * (1 - share) + wrist_stroke * share
    wrist[:, 2] += 0.035 * timeline.lift
    elbow, wrist = solve_arm(body, wrist, _ELBOW_POLE)
    frame = _between(_rotation(rest_finger, rest_palm), turned, timeline.envelope)
    frame = _limit_wrist(frame, unit(wrist - elbow))
    config = hands.RELAXED.blend(posture, timeline.envelope)
    local = hands.joints(config) * body.hand
    _, pads = hands.finger_directions(config)
    return _Arm(
        elbow=elbow,
        hand=wrist[:, None] + local @ frame.transpose(0, 2, 1),
        palm=frame[:, :, 2],
        pads=np.einsum("tij,tfsj->tfsi", frame, pads),
    )


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
    timeline = _timeline(sign, style, fps, rng)
    frames = len(timeline.phase)
    repeated = sign.repeated_movement == "1"
    offset = rng.normal(0.0, style.location_noise, 3)
    size = style.amplitude * rng.uniform(0.94, 1.06)
    onset = sign_posture(sign).perturbed(rng, style.handshape_noise)
    change = _progress(timeline.phase, repeated)[0]
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
        base = base_pose("Hand", "Palm")  # an unequal pair of hands away from each other: the other hand waits
    still = np.zeros(frames)
    other: _Arm | None = None
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
    rotation = _rotation(first.finger, first.palm)
    points = _path(sign.movement, start, end, timeline.phase, repeated, size) + offset
    dominant = _articulate(body, timeline, points, rotation, twist, posture, reference, rest)
    if other is None:
        points_other, posture_other = points, posture
        if alternates(sign):
            points_other = start + end + 2 * offset - points  # half a cycle apart: the path reflected in its middle
        if sign.sign_type == "SymmetryViolation" and other_posture is not None:
            posture_other = _postures(other_posture, None, np.zeros(frames))
        other = _articulate(body, timeline, points_other, rotation, twist, posture_other, reference, rest).mirrored()
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
    """Whether a two-handed sign is drawn out of phase: the table does not say, so repeated circles and swings in space do."""
    return (
        sign.sign_type == "SymmetricalOrAlternating"
        and sign.repeated_movement == "1"
        and sign.contact == "0"
        and sign.movement in ("Circular", "BackAndForth")
    )


def _other_arm(
    body: Body,
    timeline: _Timeline,
    base: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
    config: hands.HandConfig,
    rest: tuple[np.ndarray, np.ndarray, np.ndarray],
    still: np.ndarray,
) -> _Arm:
    """The other arm of a sign whose hands do not mirror each other: held as a base, or resting."""
    wrist, finger, palm = base if base is not None else rest
    if base is None:
        timeline = replace(timeline, lift=still)
        config = hands.RELAXED
    points = np.tile(wrist, (len(still), 1))
    postures = config.blend(config, still)
    return _articulate(body, timeline, points, _rotation(finger, palm), still, postures, np.zeros(3), rest)


def _jittered(
    rest: tuple[np.ndarray, np.ndarray, np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def _assemble(dominant: _Arm, other: _Arm, sway: np.ndarray, stroke: tuple[int, int], left_handed: bool) -> Performance:
    right, left = (other.mirrored(), dominant.mirrored()) if left_handed else (dominant, other)
    return Performance(
        elbows=np.stack([right.elbow, left.elbow]),
        hands=np.stack([right.hand, left.hand]),
        palms=np.stack([right.palm, left.palm]),
        pads=np.stack([right.pads, left.pads]),
        sway=sway,
        stroke=stroke,
    )
