"""Signs in time: rest -> onset -> stroke -> offset -> rest for one sign, and signs in a row that run into each other.

Legend: T frames. Positions follow minimum-jerk profiles (Flash & Hogan 1985). Everything is computed for a
right-handed signer; a left-handed one is the mirror image of the whole performance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from islr.synth.kinematics.arm import Arm, Stance, Track, follow, from_rest_and_back, joined, resting
from islr.synth.kinematics.body import Body
from islr.synth.kinematics.path import clip_timeline, minimum_jerk, stroke_timeline
from islr.synth.kinematics.strokes import Strokes, Style, plan_strokes, quiet
from islr.synth.lexicon import Sign

FLUENCY = 1.2  # signs in a row are shorter than signs on their own
_REACTION, _SECONDS_PER_METRE = 0.13, 0.32  # a transit takes the longer, the further it goes
_LINGER = 1.15  # seconds: a hand that is needed again so soon does not go to rest in between
_HAND_LEAD = 1.5  # the next handshape is ready when two thirds of the way are done
_LIFT = 0.035  # metres forward on the way


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


def perform(sign: Sign, body: Body, style: Style, fps: float, rng: np.random.Generator) -> Performance:
    """Perform a sign once. All randomness comes from `rng`; the same arguments give the same performance.

    A sign of several morphemes is performed as signs in a row.
    """
    if sign.morphemes:
        return perform_sequence((sign,), body, style, fps, rng)[0]
    repeated, touches = sign.repeated_movement == "1", sign.contact == "1"
    timeline = clip_timeline(sign.movement, repeated, touches, style.tempo, fps, rng)
    strokes = plan_strokes(sign, body, style, timeline, rng)
    dominant = follow(body, from_rest_and_back(strokes.dominant, timeline, strokes.rest))
    others = quiet(timeline) if strokes.other_waits else timeline
    other = follow(body, from_rest_and_back(strokes.other, others, strokes.rest)).mirrored()
    return _assemble(
        dominant, other, _sway(len(timeline.phase), fps, style.sway, rng), timeline.stroke, style.left_handed
    )


def perform_sequence(
    signs: Iterable[Sign],
    body: Body,
    style: Style,
    fps: float,
    rng: np.random.Generator,
    longest: float = math.inf,
) -> tuple[Performance, list[tuple[int, int]]]:
    """Perform signs in a row with coarticulation; one span of frames (first, last) for each sign.

    The first sign that would make the performance longer than `longest` frames ends it, but for the very first one.

    Between two signs the hands go from where the first ends to where the second begins, by the shorter way and not
    by rest; the next handshape is formed on the way. A hand that the next sign does not need lingers if it is
    needed again soon, and rests otherwise.
    """
    tempo = style.tempo * FLUENCY
    before, after = (max(round(share * fps), 1) for share in rng.uniform(0.03, 0.25, 2))
    parts, spans, now = list[tuple[int, Strokes]](), list[tuple[int, int]](), before
    for sign in signs:
        added, end = list[tuple[int, Strokes]](), now
        for part in (sign, *sign.morphemes):
            repeated, touches = part.repeated_movement == "1", part.contact == "1"
            timeline = stroke_timeline(part.movement, repeated, touches, tempo, fps, rng)
            strokes = plan_strokes(part, body, style, timeline, rng)
            before_it = (parts + added)[-1:]
            held = before_it[0][1].dominant.at(-1) if before_it else resting(strokes.rest)
            start = end + _transit(held, strokes.dominant.at(0), tempo, fps)
            added.append((start, strokes))
            end = start + len(strokes.dominant)
        home = resting((parts + added)[0][1].rest)
        if parts and end + _transit(added[-1][1].dominant.at(-1), home, tempo, fps) + after > longest:
            break
        parts += added
        spans.append((added[0][0], end - 1))
        now = end
    rest = parts[0][1].rest
    frames = now + _transit(parts[-1][1].dominant.at(-1), resting(rest), tempo, fps) + after
    of_dominant = [(start, strokes.dominant) for start, strokes in parts]
    of_other = [(start, strokes.other) for start, strokes in parts if not strokes.other_waits]
    dominant, other = (
        follow(body, _with_transits(of_hand, frames, rest, tempo, fps)) for of_hand in (of_dominant, of_other)
    )
    stroke = (spans[0][0], spans[-1][1])
    sway = _sway(frames, fps, style.sway, rng)
    return _assemble(dominant, other.mirrored(), sway, stroke, style.left_handed), spans


def _transit(start: Track, end: Track, tempo: float, fps: float) -> int:
    """Return the number of frames between two held frames."""
    distance = float(np.linalg.norm(end.wrist[0] - start.wrist[0]))
    return max(round((_REACTION + _SECONDS_PER_METRE * distance) / tempo * fps), 2)


def _with_transits(parts: list[tuple[int, Track]], frames: int, rest: Stance, tempo: float, fps: float) -> Track:
    """Return one hand through a whole clip: its parts (first frame, track), and the ways between them."""
    tracks, now, held = list[Track](), 0, resting(rest)
    for start, track in parts:
        near = bool(tracks) and start - now <= _LINGER * fps
        tracks += _way(held, track.at(0), start - now, None if near else rest, tempo, fps)
        tracks.append(track)
        now, held = start + len(track), track.at(-1)
    tracks += _way(held, resting(rest), frames - now, rest, tempo, fps)
    return joined(tracks)


def _way(start: Track, end: Track, frames: int, rest: Stance | None, tempo: float, fps: float) -> list[Track]:
    """Return `frames` frames from one held frame to another, straight or by a rest where there is time for one."""
    if rest is None:
        return [_glide(start, end, frames)]
    middle = resting(rest)
    down, up = (_transit(held, middle, tempo, fps) * _apart(held, middle) for held in (start, end))
    down = min(down, frames)
    up = min(up, frames - down)
    return [_glide(start, middle, down), _glide(middle, middle, frames - down - up), _glide(middle, end, up)]


def _apart(one: Track, two: Track) -> bool:
    """Return whether two held frames are different places."""
    return not np.array_equal(one.wrist, two.wrist)


def _glide(start: Track, end: Track, frames: int) -> Track:
    time = np.arange(1, frames + 1) / (frames + 1)
    lift = _LIFT * np.sin(np.pi * time) * _apart(start, end)
    return start.toward(end, minimum_jerk(time), minimum_jerk(_HAND_LEAD * time), lift)


def _sway(frames: int, fps: float, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Return the slow drift of the body [T, 3]: two sines per axis."""
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
