"""One clip in memory: a sign filmed once, its exact pose, its H.264 bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np

from islr.data.pose import Pose
from islr.data.synth.lexicon import Sign
from islr.data.synth.motion import perform
from islr.data.synth.render import Shot, frames, shoot
from islr.data.synth.signer import FRAME_RATES, clip_camera, clip_generator, clip_style, make_signer

_QUALITY = "22"  # x264 crf: visually clean at these sizes
_PRESET = "veryfast"
# x264's look-ahead gives other bytes from run to run for very small pictures, also with one thread. Without it, and
# without the B-frames it plans, the bytes depend on the pictures alone.
_X264 = "bframes=0:rc-lookahead=0:mbtree=0"
_BOX_MARGIN = 0.04  # share of the picture around the person in the WLASL bbox
_LEGS = slice(25, 33)


@dataclass(frozen=True)
class Take:
    """One clip to be: which sign (its place in the lexicon), by whom, which time."""

    sign: int
    signer: int
    rep: int


def film(
    sign: Sign,
    take: Take,
    seed: int,
    size: int,
    rates: tuple[Fraction, ...] = FRAME_RATES,
    setting: str = "varied",
) -> tuple[Shot, Iterator[np.ndarray], Fraction]:
    """One clip as its projected geometry, its pictures (drawn while iterating) and its frame rate."""
    signer = make_signer(seed, take.signer, rates, setting)
    rng = clip_generator(seed, take.sign, take.signer, take.rep)
    camera, style = clip_camera(signer.camera, rng), clip_style(signer.style, rng)
    performance = perform(sign, signer.body, style, float(signer.fps), rng)
    shot = shoot(performance, signer.body, camera, size)
    return shot, frames(shot, signer.body, camera, signer.look, rng), signer.fps


def pose_of_shot(shot: Shot, fps: float) -> Pose:
    """The exact pose of a shot: x and y in 0..1 of the picture.

    z is on the scale of x, smaller is nearer, relative to the hips (body) or to the wrist (hands). Everything is
    certain (confidence 1) but the legs, which are never in the picture (0).
    """
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
    confidences[:, _LEGS] = 0.0
    return Pose(keypoints, confidences, fps, shot.size, shot.size)


def encode(pictures: Iterator[np.ndarray], fps: Fraction, size: int) -> tuple[bytes, int]:
    """RGB pictures -> the bytes of an H.264 mp4 (yuv420p, one thread: the same bytes every time) and their
    number.
    """
    buffer = io.BytesIO()
    count = 0
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": _QUALITY, "preset": _PRESET, "threads": "1", "x264-params": _X264}
        for picture in pictures:
            planes = cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420)
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(planes.astype(np.uint8, copy=False), format="yuv420p"))
            )
            count += 1
        container.mux(stream.encode(None))
    return buffer.getvalue(), count


def box_around(pose: Pose) -> tuple[int, int, int, int]:
    """Pixels around the visible person, as WLASL's bbox: xmin, ymin, xmax, ymax."""
    seen = pose.keypoints[pose.confidences > 0][:, :2]
    low, high = seen.min(axis=0) - _BOX_MARGIN, seen.max(axis=0) + _BOX_MARGIN
    low[1] -= 0.08  # the crown of the head is above the highest landmark
    x0, y0, x1, y1 = np.clip(np.concatenate([low, high]), 0.0, 1.0) * np.array([pose.width, pose.height] * 2)
    return int(x0), int(y0), int(np.ceil(x1)), int(np.ceil(y1))
