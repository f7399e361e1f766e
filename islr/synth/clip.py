"""One clip in memory: what is filmed, its exact pose, its H.264 bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np

from islr.data.poses.pose import Pose
from islr.synth.difficulty import DIFFICULTIES
from islr.synth.drawing.camera import Camera
from islr.synth.drawing.look import Look
from islr.synth.drawing.projection import Projection, project_performance
from islr.synth.drawing.recording import record
from islr.synth.drawing.render import Painter
from islr.synth.kinematics.body import Body
from islr.synth.kinematics.motion import perform
from islr.synth.lexicon import Sign
from islr.synth.signer import FRAME_RATES, clip_camera, clip_generator, clip_quality, clip_style, make_signer

_PRESET = "veryfast"
# x264's look-ahead gives other bytes from run to run for very small pictures, also with one thread. Without it, and
# without the B-frames it plans, the bytes depend on the pictures alone.
_X264 = "bframes=0:rc-lookahead=0:mbtree=0"
_BOX_MARGIN = 0.04  # share of the picture around the person in the WLASL bbox
_LEGS = slice(25, 33)


@dataclass(frozen=True)
class Take:
    """One clip to be: what is performed (its place in the lexicon, or among the actions), by whom, which time."""

    item: int
    signer: int
    rep: int


@dataclass(frozen=True)
class Footage:
    """A clip before it is encoded.

    Attributes:
        shot: Its projected geometry.
        pictures: Its frames, uint8 [size, size, 3], drawn while iterating.
        fps: Frames per second.
        quality: x264 constant rate factor.
        legs: Whether the legs are in the picture.
        spans: Place in the lexicon, first and last frame of every sign of a clip of many.
    """

    shot: Projection
    pictures: Iterator[np.ndarray]
    fps: Fraction
    quality: int
    legs: bool = False
    spans: tuple[tuple[int, int, int], ...] = ()


def film(
    sign: Sign,
    take: Take,
    seed: int,
    size: int,
    rates: tuple[Fraction, ...] = FRAME_RATES,
    difficulty: str = "medium",
) -> Footage:
    """Film one signer performing one sign once."""
    preset = DIFFICULTIES[difficulty]
    signer = make_signer(seed, take.signer, rates, preset)
    rng = clip_generator(seed, take.item, take.signer, take.rep)
    camera, style = clip_camera(signer.camera, rng), clip_style(signer.style, rng)
    performance = perform(sign, signer.body, style, float(signer.fps), rng)
    shot = project_performance(performance, signer.body, camera, size)
    quality = clip_quality(preset, seed, take.item, take.signer, take.rep)
    pictures = recorded(Painter, shot, signer.body, camera, signer.look, rng)
    return Footage(shot, pictures, signer.fps, quality)


def recorded(
    painter: type[Painter], shot: Projection, body: Body, camera: Camera, look: Look, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Draw and record a shot; nothing is done before the first frame is asked for."""
    yield from record(painter(shot, body, camera, look, rng).pictures(), shot, look.recording, rng)


def pose_of(footage: Footage) -> Pose:
    """Return the exact pose of a clip: x and y in 0..1 of the picture.

    z is on the scale of x, smaller is nearer, relative to the hips (body) or to the wrist (hands). Everything is
    certain (confidence 1) but legs that are not in the picture (0).
    """
    shot = footage.shot
    roots = np.concatenate(
        [
            np.repeat(shot.depth[:, [23, 24]].mean(axis=1, keepdims=True), 33, axis=1),
            np.repeat(shot.depth[:, [33]], 21, axis=1),
            np.repeat(shot.depth[:, [54]], 21, axis=1),
        ],
        axis=1,
    )
    z = -(shot.depth - roots) * shot.per_metre / shot.size
    keypoints = np.concatenate([shot.points / shot.size, z[..., None]], axis=-1).astype(np.float32)
    confidences = np.ones(keypoints.shape[:2], dtype=np.float32)
    if not footage.legs:
        confidences[:, _LEGS] = 0.0
    return Pose(keypoints, confidences, float(footage.fps), shot.size, shot.size, made_by="islr synth, exact")


def encode(footage: Footage) -> tuple[bytes, int]:
    """Return the bytes of an H.264 mp4 (yuv420p, one thread: the same bytes every time) and its number of frames."""
    buffer = io.BytesIO()
    count = 0
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=footage.fps)
        stream.width = stream.height = footage.shot.size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(footage.quality), "preset": _PRESET, "threads": "1", "x264-params": _X264}
        for picture in footage.pictures:
            planes = cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420)
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(planes.astype(np.uint8, copy=False), format="yuv420p"))
            )
            count += 1
        container.mux(stream.encode(None))
    return buffer.getvalue(), count


def box_around(pose: Pose) -> tuple[int, int, int, int]:
    """Return the pixels around the visible person, as WLASL's bbox: xmin, ymin, xmax, ymax."""
    seen = pose.keypoints[pose.confidences > 0][:, :2]
    low, high = seen.min(axis=0) - _BOX_MARGIN, seen.max(axis=0) + _BOX_MARGIN
    low[1] -= 0.08  # the crown of the head is above the highest landmark
    x0, y0, x1, y1 = np.clip(np.concatenate([low, high]), 0.0, 1.0) * np.array([pose.width, pose.height] * 2)
    return int(x0), int(y0), int(np.ceil(x1)), int(np.ceil(y1))
