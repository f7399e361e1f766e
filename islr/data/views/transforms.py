"""Which frames of a clip are read, how they are cropped and resized, and the views made of them.

Video frames are uint8 `[T, H, W, 3]` until the encoder normalises them; poses are float32 `[T, 75, 3]`
(x, y in shoulder widths, confidence). Every random choice comes from the generator that is passed in.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import torch
from pydantic import Field, model_validator

from islr.config import Config
from islr.data.poses.pose import LEFT_HAND, RIGHT_HAND, normalise
from islr.data.views.erasing import ErasingConfig, erase_box
from islr.data.views.input_spec import InputSpec
from islr.data.views.randaugment import RandAugmentConfig, rand_augment
from islr.data.views.source import ClipSource

View = Callable[[ClipSource, np.random.Generator], dict[str, Any]]

# Left <-> right landmarks of MediaPipe's 33 body points, then the two hands.
MIRROR = np.arange(75)
for _left, _right in ((1, 4), (2, 5), (3, 6), (7, 8), (9, 10), *((i, i + 1) for i in range(11, 33, 2))):
    MIRROR[_left], MIRROR[_right] = _right, _left
MIRROR[LEFT_HAND], MIRROR[RIGHT_HAND] = np.arange(75)[RIGHT_HAND], np.arange(75)[LEFT_HAND]


class SamplingConfig(Config):
    """Which frames a training or evaluation clip is made of.

    `uniform` spreads the frames over the whole sign, one per equal segment: isolated signs differ in length
    (WLASL: median 57 frames) and a fixed window would cut long signs and repeat the last frame of short ones.
    `span` is the fixed-rate window of the action recognition recipes: `stride` apart at `target_fps`.
    """

    kind: Literal["uniform", "span"] = "uniform"
    stride: int = Field(4, ge=1)
    target_fps: float = Field(30.0, gt=0)

    def indices(
        self, length: int, fps: float, frames: int, rng: np.random.Generator | None, place: float = 0.5
    ) -> np.ndarray:
        """Frame indices, int64 `[frames]`, ascending, all in `0..length-1`; `rng` None = the choice at `place`."""
        if self.kind == "uniform":
            return uniform_indices(length, frames, rng, place)
        return span_indices(length, fps, frames, self.stride, rng, place, target_fps=self.target_fps)


class AugmentConfig(Config):
    """Training-time augmentation of one video clip, the same for all its frames.

    In this order: crop, flip, colours, RandAugment, erasing. RandAugment comes after the crop, as in timm: its cost
    does not depend on the size of the video. (SlowFast and VideoMAE apply it to the whole frame before.)
    """

    sampling: SamplingConfig = SamplingConfig()
    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: bool = Field(False, description="mirror half of the clips: swaps the signer's handedness")
    colour: float = Field(0.0, ge=0, le=1, description="brightness, contrast and saturation factors in 1 +- this")
    randaugment: RandAugmentConfig | None = Field(None, description="operations drawn for the cropped clip; none = off")
    erasing: ErasingConfig | None = Field(None, description="one box of all frames is overwritten; none = off")

    @model_validator(mode="after")
    def _ordered(self) -> "AugmentConfig":
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two positive numbers, the smaller first")
        if self.scale[1] > 1:
            raise ValueError("scale is a share of the frame's area and cannot exceed 1")
        return self


class PoseAugmentConfig(Config):
    """Training-time augmentation of a pose sequence; magnitudes are in shoulder widths and radians."""

    crop: tuple[float, float] = (0.6, 1.0)
    rotation: float = Field(0.15, ge=0)
    scale: float = Field(0.1, ge=0)
    shear: float = Field(0.1, ge=0)
    shift: float = Field(0.05, ge=0)
    jitter: float = Field(0.005, ge=0)
    drop_hand: float = Field(0.1, ge=0, le=1)
    mirror: float = Field(0.0, ge=0, le=1, description="share of clips mirrored: swaps the signer's handedness")


def uniform_indices(length: int, frames: int, rng: np.random.Generator | None = None, place: float = 0.5) -> np.ndarray:
    """One frame from each of `frames` equal segments of the whole clip (TSN sampling, Wang et al. 2016).

    Args:
        length: Frames in the clip.
        frames: Frames wanted; a clip shorter than that repeats frames, in order.
        rng: Draws the place inside each segment; None takes `place` in all of them.
        place: 0..1 inside the segment; 0.5 is its centre.
    """
    inside = np.full(frames, place) if rng is None else rng.random(frames)
    return np.minimum((np.arange(frames) + inside) * length / frames, length - 1).astype(np.int64)


def span_indices(
    length: int,
    fps: float,
    frames: int,
    stride: float,
    rng: np.random.Generator | None = None,
    place: float = 0.5,
    *,
    target_fps: float = 30.0,
) -> np.ndarray:
    """`frames` indices `stride` apart at `target_fps`; beyond the end the last frame repeats (SlowFast).

    Args:
        length: Frames in the clip.
        fps: The clip's own rate; the step is `stride * fps / target_fps` of its frames.
        frames: Frames wanted.
        stride: Step in frames at `target_fps`.
        rng: Draws the start; None puts it at `place` of the room there is.
        place: 0 first window, 0.5 centred, 1 last.
        target_fps: Rate that `stride` refers to.
    """
    step = stride * fps / target_fps
    slack = max(length - step * frames, 0.0)
    start = slack * (place if rng is None else rng.random())
    return np.clip(start + np.arange(frames) * step, 0, length - 1).astype(np.int64)


def resize_clip(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 `[T, H, W, 3]` to `size` = (height, width), rounding to uint8."""
    height, width = size
    if frames.shape[1:3] == (height, width):
        return frames
    shrinks = height * width < frames.shape[1] * frames.shape[2]
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    out = np.empty((len(frames), height, width, 3), np.uint8)
    for source, target in zip(frames, out, strict=True):
        cv2.resize(source, (width, height), dst=target, interpolation=mode)
    return out


def resize_short_side(frames: np.ndarray, size: int) -> np.ndarray:
    """Resize uint8 `[T, H, W, 3]` so that the shorter side is `size`, keeping the aspect ratio."""
    height, width = frames.shape[1:3]
    scale = size / min(height, width)
    return resize_clip(frames, (max(size, round(height * scale)), max(size, round(width * scale))))


def random_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a random box in a picture, in pixels (Inception crop, 10 tries)."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            break
    else:
        h = w = min(height, width)
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return left, top, left + w, top + h


def random_resized_crop(
    frames: np.ndarray,
    size: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """One random box, the same for all frames, resized to `size` x `size`."""
    left, top, right, bottom = random_box(frames.shape[1], frames.shape[2], scale, ratio, rng)
    return resize_clip(frames[:, top:bottom, left:right], (size, size))


def center_crop(frames: np.ndarray, size: int) -> np.ndarray:
    """Short side to `size`, then the central `size` x `size` square."""
    return spatial_crop(frames, size, 0.5)


def spatial_crop(frames: np.ndarray, size: int, place: float) -> np.ndarray:
    """Short side to `size`, then a square at `place` (0 first, 0.5 centre, 1 last) along the longer side."""
    frames = resize_short_side(frames, size)
    height, width = frames.shape[1:3]
    top, left = round((height - size) * place), round((width - size) * place)
    return frames[:, top : top + size, left : left + size]


def jitter_colours(
    frames: np.ndarray, strength: float | tuple[float, float, float], rng: np.random.Generator
) -> np.ndarray:
    """Brightness, contrast and saturation factors in `1 +- strength`, the same for all frames."""
    spread = np.broadcast_to(strength, 3)
    brightness, contrast, saturation = rng.uniform(1 - spread, 1 + spread).astype(np.float32)
    pixels = frames.astype(np.float32) * brightness
    mean = pixels.mean()
    pixels = (pixels - mean) * contrast + mean
    grey = pixels.mean(axis=-1, keepdims=True)
    pixels = (pixels - grey) * saturation + grey
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def to_cthw(frames: np.ndarray) -> torch.Tensor:
    """uint8 `[T, H, W, C]` -> contiguous uint8 tensor `[C, T, H, W]`."""
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(3, 0, 1, 2)))


def resample_pose(pose: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Interpolate `[T, 75, 3]` linearly at fractional frame positions.

    A joint that is missing in one of the two frames is taken as it stands in the earlier one, never mixed with
    an absent point; the confidence is the smaller of the two.
    """
    low = np.clip(np.floor(positions).astype(np.int64), 0, len(pose) - 1)
    high = np.minimum(low + 1, len(pose) - 1)
    part = np.clip(positions - low, 0, 1).astype(np.float32)[:, None, None]
    before, after = pose[low], pose[high]
    out = before * (1 - part) + after * part
    absent = (before[..., 2] == 0) | (after[..., 2] == 0)
    out[..., 2] = np.minimum(before[..., 2], after[..., 2])
    out[absent] = before[absent]
    return out.astype(np.float32)


def augment_pose(pose: np.ndarray, config: PoseAugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Affine map, joint jitter, dropped hand and mirror on a normalised pose `[T, 75, 3]`; returns a new array."""
    out = pose.copy()
    angle = rng.normal(0, config.rotation)
    scale = 1 + rng.normal(0, config.scale)
    shear = rng.normal(0, config.shear)
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = scale * np.array([[cos, -sin], [sin, cos]]) @ np.array([[1.0, shear], [0.0, 1.0]])
    shift = rng.normal(0, config.shift, 2)
    out[..., :2] = out[..., :2] @ matrix.T.astype(np.float32) + shift.astype(np.float32)
    out[..., :2] += rng.normal(0, config.jitter, out[..., :2].shape).astype(np.float32)
    dropped = rng.random(2) < config.drop_hand
    if not dropped.all():  # a sign without any hand would teach nothing
        for hand, drop in zip((LEFT_HAND, RIGHT_HAND), dropped, strict=True):
            if drop:
                out[:, hand, 2] = 0
    if rng.random() < config.mirror:
        out = out[:, MIRROR]
        out[..., 0] *= -1
    out[..., :2] *= out[..., 2:] > 0
    return out


def augmented_pose(source: ClipSource, frames: int, config: PoseAugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """A random contiguous part of the sign, resampled to `frames` and augmented: float32 `[frames, 75, 3]`."""
    pose, _ = normalise(source.pose())
    span = rng.uniform(*config.crop) * (len(pose) - 1)
    start = rng.uniform(0, len(pose) - 1 - span) if len(pose) > 1 else 0.0
    return augment_pose(resample_pose(pose, start + np.linspace(0, span, frames)), config, rng)


def eval_view(spec: InputSpec, sampling: SamplingConfig | None = None) -> View:
    """The deterministic single view: whole sign, short side to size, centre square; whole pose for pose encoders.

    The view returns `{"clip": uint8 [C, T, H, W]}` or `{"clip": float32 [T, 75, 3]}`.
    """
    multi = multi_view(spec, 1, 1, sampling)

    def view(source: ClipSource, rng: np.random.Generator) -> dict[str, Any]:
        return {"clip": multi(source, rng)["clip"][0]}

    return view


def multi_view(spec: InputSpec, clips: int, crops: int, sampling: SamplingConfig | None = None) -> View:
    """`clips` x `crops` deterministic views stacked on a new first axis: `{"clip": [V, ...]}`.

    Temporal views differ in their place (inside every segment, or of the window); spatial crops lie along the
    longer side, one crop meaning the centre. A pose encoder sees the temporal views only.
    """
    sampling = sampling or SamplingConfig()
    # Uniform views interleave at (k + 1/2)/n of every segment; span views go from the first window to the last.
    edges = clips > 1 and sampling.kind == "span"
    places = [k / (clips - 1) if edges else (k + 0.5) / clips for k in range(clips)]

    def video(source: ClipSource, rng: np.random.Generator) -> dict[str, Any]:
        views = []
        for place in places:
            frames = source.read(sampling.indices(source.length, source.fps, spec.frames, None, place))
            for crop in range(crops):
                views.append(to_cthw(spatial_crop(frames, spec.size, 0.5 if crops == 1 else crop / (crops - 1))))
        return {"clip": torch.stack(views)}

    def pose(source: ClipSource, rng: np.random.Generator) -> dict[str, Any]:
        sequence, _ = normalise(source.pose())
        views = []
        for place in places:
            positions = (np.arange(spec.frames) + place) * len(sequence) / spec.frames - 0.5
            views.append(torch.from_numpy(resample_pose(sequence, np.clip(positions, 0, len(sequence) - 1))))
        return {"clip": torch.stack(views)}

    return video if spec.modality == "video" else pose


@dataclass(frozen=True)
class Shot:
    """What a training view took of a video clip, and from where.

    Attributes:
        frames: uint8 `[T, size, size, 3]`.
        indices: Which frames of the clip's range they are, `[T]`.
        box: Left, top, right, bottom of the crop, in 0..1 of the frame; RandAugment may have moved what is in it.
        flipped: The picture is mirrored.
    """

    frames: np.ndarray
    indices: np.ndarray
    box: tuple[float, float, float, float]
    flipped: bool


def training_shot(source: ClipSource, spec: InputSpec, config: AugmentConfig, rng: np.random.Generator) -> Shot:
    """Frames of a clip, cropped and augmented for training."""
    indices = config.sampling.indices(source.length, source.fps, spec.frames, rng)
    return augmented_shot(source.read(indices), indices, spec, config, rng)


def augmented_shot(
    frames: np.ndarray, indices: np.ndarray, spec: InputSpec, config: AugmentConfig, rng: np.random.Generator
) -> Shot:
    """Frames `[T, H, W, 3]`, uint8, cropped and augmented for training; the input stays as it is."""
    height, width = frames.shape[1:3]
    left, top, right, bottom = random_box(height, width, config.scale, config.ratio, rng)
    frames = resize_clip(frames[:, top:bottom, left:right], (spec.size, spec.size))
    flipped = config.flip and rng.random() < 0.5
    if flipped:
        frames = frames[:, :, ::-1]
    if config.colour:
        frames = jitter_colours(frames, config.colour, rng)
    if config.randaugment is not None:
        frames = rand_augment(frames, config.randaugment, rng)
    if config.erasing is not None:
        step = -1 if spec.channels == "bgr" else 1  # frames are red first, the encoder's mean and std may not be
        frames = erase_box(frames, config.erasing, spec.mean[::step], spec.std[::step], rng)
    return Shot(frames, indices, (left / width, top / height, right / width, bottom / height), flipped)


def train_view(spec: InputSpec, video: AugmentConfig, pose: PoseAugmentConfig, repeats: int = 1) -> View:
    """The labelled-training view of supervised pre-training and fine-tuning, for either modality.

    Args:
        spec: The encoder's input.
        video, pose: Augmentation; the one of the spec's modality counts.
        repeats: Augmentations of one clip (Hoffer et al., arXiv 1901.09335); of a video they share the frames that are
            read, which is decoded once, as `NUM_SAMPLE` of SlowFast and VideoMAE.

    Returns:
        A view that gives `{"clip": [...]}`, with a first axis of `repeats` when there are several.
    """

    def video_view(source: ClipSource, rng: np.random.Generator) -> dict[str, Any]:
        indices = video.sampling.indices(source.length, source.fps, spec.frames, rng)
        frames = source.read(indices)
        shots = [augmented_shot(frames, indices, spec, video, rng) for _ in range(repeats)]
        return _together([to_cthw(shot.frames) for shot in shots])

    def pose_view(source: ClipSource, rng: np.random.Generator) -> dict[str, Any]:
        return _together([torch.from_numpy(augmented_pose(source, spec.frames, pose, rng)) for _ in range(repeats)])

    return video_view if spec.modality == "video" else pose_view


def _together(clips: list[torch.Tensor]) -> dict[str, Any]:
    return {"clip": clips[0] if len(clips) == 1 else torch.stack(clips)}
