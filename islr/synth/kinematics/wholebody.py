"""A whole body in time: an action's key poses -> the 75 points, with legs, for a whole clip.

Legend: T frames. The frame is that of `body`: origin between the shoulders of a person who stands still, y up, z
towards the camera, metres.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from islr.synth.kinematics import hand as hands
from islr.synth.kinematics.actions import Action, Key
from islr.synth.kinematics.arm import Arm, rotate
from islr.synth.kinematics.body import MIRROR, Body, landmarks, solve_arm, two_bones, unit
from islr.synth.kinematics.path import minimum_jerk
from islr.synth.kinematics.strokes import Style

_THIGH, _SHIN = 0.42, 0.41  # metres of an average person, whose torso is _TORSO long
_TORSO = 0.500
_STANCE = np.array([-0.115, -1.315, 0.0])  # right ankle of an average person who stands
_ELBOW_POLE = np.array([-0.45, -0.80, -0.45])
_KNEE_POLE = np.array([-0.15, 0.0, 1.0])
_PALM = np.array([0.85, 0.10, -0.50])  # where the palm of a hanging right hand faces, roughly
_HEEL, _TOE = np.array([0.0, -0.045, -0.045]), np.array([-0.03, -0.075, 0.135])  # from the ankle
_STEP = 3  # numbers of a point
_DELAY = 0.35  # seconds an action may take to begin
_UPPER = [*range(23), *range(33, 75)]  # points that bend with the torso


@dataclass(frozen=True)
class Motion:
    """One performed action: points [T, 75, 3], palm normals [2, T, 3], finger normals [2, T, 4, 3, 3]."""

    points: np.ndarray
    palms: np.ndarray
    pads: np.ndarray


def act(action: Action, body: Body, style: Style, fps: float, frames: int, rng: np.random.Generator) -> Motion:
    """Perform an action for `frames` frames, over and over. All randomness comes from `rng`."""
    amplitude = style.amplitude * rng.uniform(0.92, 1.08)
    poses = _poses(action, style.tempo, fps, frames, rng)
    size = body.torso / _TORSO
    rest = _numbers(replace(Key(), turn=0.0))
    poses[:, :-1] = rest[:-1] + amplitude * (poses[:, :-1] - rest[:-1])  # a turn stays a whole turn
    drift = rng.normal(0.0, style.location_noise, rest.shape) * (np.arange(len(rest)) < 2 * _STEP)
    points = _split(poses + drift, size)
    config = hands.RELAXED.perturbed(rng, style.handshape_noise)
    arms = [_arm(body, wrist, config) for wrist in (points.right, points.left)]
    arms[1] = arms[1].mirrored()
    world = landmarks(body, np.stack([arm.elbow for arm in arms]), np.stack([arm.hand for arm in arms]))
    palms, pads = np.stack([arm.palm for arm in arms]), np.stack([arm.pads for arm in arms])
    bend = rotate(np.tile([1.0, 0.0, 0.0], (frames, 1)), points.lean)
    bend = rotate(np.tile([0.0, 0.0, 1.0], (frames, 1)), points.tilt) @ bend
    pivot = np.array([0.0, -body.torso, 0.0])
    world[:, _UPPER] = (world[:, _UPPER] - pivot) @ bend.transpose(0, 2, 1) + pivot
    world += points.hips[:, None]
    _legs(world, points, size)
    turn = rotate(np.tile([0.0, 1.0, 0.0], (frames, 1)), points.turn)
    world = world @ turn.transpose(0, 2, 1)
    facing = turn @ bend
    palms, pads = np.einsum("tij,stj->sti", facing, palms), np.einsum("tij,stfgj->stfgi", facing, pads)
    if style.left_handed:
        world, palms, pads = _mirrored(world), palms[::-1] * MIRROR, pads[::-1] * MIRROR
    return Motion(world, palms, pads)


@dataclass(frozen=True)
class _Points:
    """Key poses of every frame in this person's metres [T, 3] and in radians [T]; left ones in their mirrored frame."""

    right: np.ndarray
    left: np.ndarray
    right_foot: np.ndarray
    left_foot: np.ndarray
    hips: np.ndarray
    lean: np.ndarray
    tilt: np.ndarray
    turn: np.ndarray


def _numbers(key: Key) -> np.ndarray:
    return np.concatenate([np.atleast_1d(getattr(key, field.name)) for field in fields(Key)]).astype(float)


def _split(poses: np.ndarray, size: float) -> _Points:
    parts = [poses[:, _STEP * index : _STEP * (index + 1)] * size for index in range(5)]
    return _Points(*parts, *np.radians(poses[:, 5 * _STEP :]).T)


def _poses(action: Action, tempo: float, fps: float, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Return the numbers of the key poses [T, 18], with minimum-jerk ways between them."""
    time = np.arange(frames) / fps - rng.uniform(0, _DELAY)
    now = 0.0
    held = _numbers(action.steps[-1][1])
    held[-1] = 0.0  # a whole turn ends as it begins
    poses = np.tile(held, (frames, 1))
    while now < time[-1]:
        start = held.copy()
        for seconds, key in action.steps:
            seconds = seconds / tempo * rng.uniform(0.93, 1.07)
            target = _numbers(key)
            way = minimum_jerk((time - now) / seconds)[:, None]
            later = time >= now
            poses[later] = (start + way * (target - start))[later]
            start, now = target, now + seconds
        held = start
        held[-1] = 0.0
    return poses


def _arm(body: Body, wrist: np.ndarray, config: hands.HandConfig) -> Arm:
    """Return a right arm whose hand goes on along the forearm, fingers relaxed."""
    elbow, wrist = solve_arm(body, wrist, _ELBOW_POLE)
    y = unit(wrist - elbow)
    z = unit(_PALM - (y @ _PALM)[:, None] * y)
    frame = np.stack([np.cross(y, z), y, z], axis=-1)
    held = config.blend(config, np.zeros(len(wrist)))
    _, pads = hands.finger_directions(held)
    local = hands.joints(held) * body.hand
    return Arm(
        elbow,
        wrist[:, None] + local @ frame.transpose(0, 2, 1),
        frame[:, :, 2],
        np.einsum("tij,tfsj->tfsi", frame, pads),
    )


def _legs(world: np.ndarray, points: _Points, size: float) -> None:
    """Bring the feet to the ground, or off it, and bend the knees between."""
    for side, mirror, foot in ((0, MIRROR, points.left_foot), (1, np.ones(3), points.right_foot)):
        hip = world[:, 23 + side]
        ankle = (_STANCE * size + foot) * mirror
        knee, ankle = two_bones(hip, ankle, (_THIGH * size, _SHIN * size), _KNEE_POLE * mirror)
        world[:, 25 + side], world[:, 27 + side] = knee, ankle
        world[:, 29 + side], world[:, 31 + side] = ankle + _HEEL * size, ankle + _TOE * size * mirror


def _mirrored(world: np.ndarray) -> np.ndarray:
    """Mirror points [T, 75, 3]: left and right change places."""
    order = [0, 4, 5, 6, 1, 2, 3, 8, 7, 10, 9]
    order += [index + 1 if index % 2 else index - 1 for index in range(11, 33)]
    order += [*range(54, 75), *range(33, 54)]
    return world[:, order] * MIRROR
