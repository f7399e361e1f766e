"""Training and evaluation views: what a model is shown of a clip.

Video frames are uint8 `[T, H, W, 3]` until the encoder normalises them; poses are float32 `[T, 75, 3]` (x, y in
shoulder widths, confidence). Every random choice comes from the generator that is passed in.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field, model_validator

from islr.config import Config, refuse_idle
from islr.data.manifest import Clip
from islr.data.poses.pose import normalise
from islr.data.views.crops import jitter_colours, random_box, resize_clip, spatial_crop, to_cthw
from islr.data.views.erasing import ErasingConfig, erase_box
from islr.data.views.input_spec import InputSpec
from islr.data.views.poses import PoseAugmentConfig, augmented_pose, resample_pose
from islr.data.views.randaugment import RandAugmentConfig, rand_augment
from islr.data.views.sampling import SamplingConfig
from islr.data.views.source import ClipSource
from islr.errors import UserError

View = Callable[[ClipSource, np.random.Generator], dict[str, Any]]


class AugmentConfig(Config):
    """Training-time augmentation of one video clip, the same for all its frames.

    In this order: crop, flip, colours, RandAugment, erasing. RandAugment follows the crop, as in timm, so that its cost
    does not depend on the size of the video. (SlowFast and VideoMAE apply it to the whole frame, before the crop.)
    """

    sampling: SamplingConfig = SamplingConfig()
    scale: tuple[float, float] = Field((0.5, 1.0), description="crop's share of the frame's area, drawn between")
    ratio: tuple[float, float] = Field((0.75, 4 / 3), description="crop's width by its height, drawn between")
    flip: bool = Field(False, description="mirror half of the clips: swaps the signer's handedness")
    colour: float = Field(0.0, ge=0, le=1, description="brightness, contrast and saturation factors in 1 +- this")
    randaugment: RandAugmentConfig | None = Field(None, description="operations on the cropped clip; none = off")
    erasing: ErasingConfig | None = Field(None, description="one box overwritten in all frames; none = off")
    windows: int = Field(
        1, ge=1, description="most windows that an epoch takes of a long clip; with sampling.kind: window or auto"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "AugmentConfig":
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two positive numbers, the smaller first")
        if self.scale[1] > 1:
            raise ValueError("scale is a share of the frame's area and cannot exceed 1")
        refuse_idle(self, "windows", self.sampling.kind != "whole", "sampling.kind: window or auto")
        return self

    def repeats(self, clips: Iterable[Clip], frames: int) -> list[int]:
        """Return how often an epoch takes each clip: once, or as often as windows fit into it, up to `windows`."""
        return [min(self.windows, self.sampling.windows(clip.frames or 0, clip.fps or 25.0, frames)) for clip in clips]

    def describe(self, clips: Sequence[Clip], frames: int) -> str:
        """Say what `sampling` chose and how many windows an epoch takes; empty where there was no choice."""
        remark = self.sampling.describe(clips, frames)
        if self.windows > 1:
            remark += f"{'; ' if remark else ''}an epoch takes {sum(self.repeats(clips, frames))} windows"
        return remark


def eval_view(spec: InputSpec, sampling: SamplingConfig | None = None) -> View:
    """Return the deterministic single view: whole sign, short side to size, centre square; poses are not cropped.

    The view returns `{"clip": uint8 [C, T, H, W]}` or `{"clip": float32 [T, 75, 3]}`.
    """
    multi = multi_view(spec, 1, 1, sampling)

    def view(source: ClipSource, rng: np.random.Generator) -> dict[str, Any]:
        return {"clip": multi(source, rng)["clip"][0]}

    return view


def multi_view(
    spec: InputSpec, clips: int, crops: int, sampling: SamplingConfig | None = None, short_side: int | None = None
) -> View:
    """Return `clips` x `crops` deterministic views, stacked on a new first axis: `{"clip": [V, ...]}`.

    Temporal views differ in their place (inside every segment, or of the window); spatial crops lie along the longer
    side, a single one at the centre. A pose encoder gets the temporal views of whole clips only.

    Args:
        spec: The encoder's input.
        clips, crops: Temporal and spatial views.
        sampling: Of frames; default whole clips.
        short_side: Shorter side that frames have before crops of the encoder's size; None = that size.
    """
    sampling = sampling or SamplingConfig()

    def video(source: ClipSource, rng: np.random.Generator) -> dict[str, Any]:
        views = []
        for place in sampling.places(source.length, source.fps, spec.frames, clips):
            frames = source.read(sampling.indices(source.length, source.fps, spec.frames, None, place))
            for crop in range(crops):
                along = 0.5 if crops == 1 else crop / (crops - 1)
                views.append(to_cthw(spatial_crop(frames, spec.size, along, short_side)))
        return {"clip": torch.stack(views)}

    def pose(source: ClipSource, rng: np.random.Generator) -> dict[str, Any]:
        sequence, _ = normalise(source.pose())
        views = []
        for place in SamplingConfig().places(len(sequence), source.fps, spec.frames, clips):
            positions = (np.arange(spec.frames) + place) * len(sequence) / spec.frames - 0.5
            views.append(torch.from_numpy(resample_pose(sequence, np.clip(positions, 0, len(sequence) - 1))))
        return {"clip": torch.stack(views)}

    return video if spec.modality == "video" else pose


@dataclass(frozen=True)
class CroppedClip:
    """The cropped and augmented frames of a training view, with the crop's place in the clip.

    Attributes:
        frames: uint8 `[T, size, size, 3]`.
        indices: Frame numbers in the clip's range, `[T]`.
        box: Left, top, right, bottom of the crop, in 0..1 of the frame; RandAugment may have moved its content.
        flipped: Whether the frames are mirrored.
    """

    frames: np.ndarray
    indices: np.ndarray
    box: tuple[float, float, float, float]
    flipped: bool


def training_crop(source: ClipSource, spec: InputSpec, config: AugmentConfig, rng: np.random.Generator) -> CroppedClip:
    """Read a clip's frames, crop and augment them for training."""
    indices = config.sampling.indices(source.length, source.fps, spec.frames, rng)
    return augment_crop(source.read(indices), indices, spec, config, rng)


def augment_crop(
    frames: np.ndarray, indices: np.ndarray, spec: InputSpec, config: AugmentConfig, rng: np.random.Generator
) -> CroppedClip:
    """Crop and augment uint8 frames `[T, H, W, 3]` for training; the input stays as it is."""
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
    return CroppedClip(frames, indices, (left / width, top / height, right / width, bottom / height), flipped)


def refuse_other_modality(encoder: str, spec: InputSpec, video: AugmentConfig, pose: PoseAugmentConfig) -> None:
    """Refuse options of the augmentation that `train_view` would ignore.

    Raises:
        UserError: The augmentation of the other modality was configured.
    """
    other, block = ("pose", pose) if spec.modality == "video" else ("video", video)
    if block != type(block)():
        raise UserError(f"{other} augments {other} clips; {encoder} takes {spec.modality}: leave {other} out")


def train_view(spec: InputSpec, video: AugmentConfig, pose: PoseAugmentConfig, repeats: int = 1) -> View:
    """Return the training view of supervised pre-training and fine-tuning, for either modality.

    Args:
        spec: The encoder's input.
        video, pose: Augmentation; only that of the spec's modality is used.
        repeats: Augmentations of one clip (Hoffer et al., arXiv 1901.09335); those of a video share its decoded frames,
            as with `NUM_SAMPLE` of SlowFast and VideoMAE.

    Returns:
        A view that returns `{"clip": [...]}`, with a first axis of `repeats` when there are several.
    """

    def video_view(source: ClipSource, rng: np.random.Generator) -> dict[str, Any]:
        indices = video.sampling.indices(source.length, source.fps, spec.frames, rng)
        frames = source.read(indices)
        shots = [augment_crop(frames, indices, spec, video, rng) for _ in range(repeats)]
        return _together([to_cthw(shot.frames) for shot in shots])

    def pose_view(source: ClipSource, rng: np.random.Generator) -> dict[str, Any]:
        return _together([torch.from_numpy(augmented_pose(source, spec.frames, pose, rng)) for _ in range(repeats)])

    return video_view if spec.modality == "video" else pose_view


def _together(clips: list[torch.Tensor]) -> dict[str, Any]:
    return {"clip": clips[0] if len(clips) == 1 else torch.stack(clips)}
