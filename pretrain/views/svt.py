"""The views of SVT (arXiv 2112.01514): nearly the whole clip, and short windows of it, at several frame counts.

A view is one window of time, some frames spread evenly over it, and one spatial crop and one change of colours for all
of these frames. Horizontal flips are off by default: they swap the signer's handedness.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator

from islr.config import Config
from islr.data.views.crops import jitter_colours, random_resized_crop, to_cthw
from islr.data.views.source import ClipSource
from islr.data.views.views import View
from islr.errors import UserError

ViewSet = Literal["code", "code_rand_fr", "paper"]
Windows = Literal["share", "frames"]
# Frames of the global and the local views, in quarters of the encoder's frames: of 8, as published.
VIEW_SETS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "code": ((4, 4), (4,) * 8),  # kahnchana/svt datasets/decoder.py, the default
    "code_rand_fr": ((2, 4), (1, 1, 2, 2, 4, 4, 8, 8)),  # the same with DATA.RAND_FR, which its author says was used
    "paper": ((4, 8), (1, 1, 2, 2, 4, 4, 8, 8)),  # the paper's counts; two local views of each count are our choice
}
TRIMMED = 5  # frames that the code cuts off one end for each global view
DECODED = 256  # frames that the code decodes: 8 at a stride of 32
LOCAL_PART = 8  # the code's local windows are this part of the clip
RATIO = (3 / 4, 4 / 3)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of ITU-R BT.601, as torchvision


class ViewConfig(Config):
    """Windows, crops and colours; the original code's by default, except flips and windows in shares of the sign."""

    windows: Windows = Field("share", description="frames: the code's 5 trimmed frames and L // 8")
    global_share: float = Field(1 - TRIMMED / DECODED, gt=0, le=1, description="part of the clip in a global view")
    local_share: float = Field(1 / LOCAL_PART, gt=0, le=1, description="part of the clip in a local view")
    local_size: int = Field(96, ge=8, description="height and width of local views, in pixels")
    global_area: tuple[float, float] = Field((0.4, 1.0), description="part of the frame that a global crop shows")
    local_area: tuple[float, float] = Field((0.05, 0.4), description="the same of local crops")
    jitter: float = Field(0.8, ge=0, le=1, description="share of views with changed colours")
    colours: tuple[float, float, float] = Field((0.4, 0.4, 0.2), description="brightness, contrast, saturation")
    grey: float = Field(0.2, ge=0, le=1, description="share of grey views")
    flip: float = Field(0.0, ge=0, le=1, description="share of views mirrored; .5 in the code")

    @model_validator(mode="after")
    def _possible(self) -> "ViewConfig":
        for name in ("global_area", "local_area"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ValueError(f"{name} must be two shares of the frame above 0 and up to 1, the smaller first")
        if not all(0 <= strength <= 1 for strength in self.colours):
            raise ValueError("colours must be three numbers from 0 to 1")
        return self


class ViewGroup(NamedTuple):
    """Views of one shape, in a batch one tensor `[B, views, 3, frames, size, size]` called `name`."""

    name: str
    frames: int
    size: int
    views: int
    is_global: bool


def view_groups(view_set: ViewSet, frames: int, size: int, local_size: int) -> list[ViewGroup]:
    """Return the groups of a set for an encoder of `frames` and `size`; globals first.

    Raises:
        UserError: The encoder's frames have no quarters.
    """
    groups = []
    for is_global, counts, side in zip((True, False), VIEW_SETS[view_set], (size, local_size), strict=True):
        for quarters in dict.fromkeys(counts):
            if frames * quarters % 4:
                raise UserError(
                    f"views={view_set} has views of quarters of the encoder's frames={frames}: use 4, 8, .."
                )
            name = f"{'global' if is_global else 'local'}_{frames * quarters // 4}"
            groups.append(ViewGroup(name, frames * quarters // 4, side, counts.count(quarters), is_global))
    return groups


def window_indices(start: float, stop: float, frames: int, length: int) -> np.ndarray:
    """Return `frames` indices evenly from `start` to `stop`, both included, in a clip of `length`: int64 `[frames]`.

    Computed in single precision, because the original truncates numbers that are nearly whole.
    """
    return torch.linspace(start, stop, frames).clamp(0, length - 1).long().numpy()


def global_windows(length: int, config: ViewConfig) -> list[tuple[float, float]]:
    """Return start and stop of the two global views, from either end of the clip; nothing is random."""
    if config.windows == "frames":
        return [(0, length - TRIMMED), (TRIMMED, length)]
    last = length - 1
    return [(0, config.global_share * last), ((1 - config.global_share) * last, last)]


def local_window(length: int, config: ViewConfig, rng: np.random.Generator) -> tuple[float, float]:
    """Draw start and stop of one local view, anywhere in the clip."""
    if config.windows == "frames":
        width = length // LOCAL_PART
        start = int(rng.integers(length - width))
        return start, start + width
    first = rng.uniform(0, 1 - config.local_share) * (length - 1)
    return first, first + config.local_share * (length - 1)


def svt_view(groups: Sequence[ViewGroup], config: ViewConfig) -> View:
    """Return the view that makes every group of one clip, as uint8 `[views, 3, frames, size, size]`."""

    def view(source: ClipSource, rng: np.random.Generator) -> dict[str, Any]:
        ends = iter(global_windows(source.length, config))
        indices = [
            window_indices(
                *(next(ends) if group.is_global else local_window(source.length, config, rng)),
                group.frames,
                source.length,
            )
            for group in groups
            for _ in range(group.views)
        ]
        # One read for all: seeking from the start of the file for each of ten views would cost ten times as much.
        places = np.cumsum([len(chosen) for chosen in indices])[:-1]
        clips = iter(np.split(source.read(np.concatenate(indices)), places))
        return {
            group.name: torch.stack([to_cthw(augment(next(clips), group, config, rng)) for _ in range(group.views)])
            for group in groups
        }

    return view


def augment(frames: np.ndarray, group: ViewGroup, config: ViewConfig, rng: np.random.Generator) -> np.ndarray:
    """Apply one crop and one colour change to all frames of a view; uint8 `[T, H, W, 3]` -> `[T, size, size, 3]`."""
    area = config.global_area if group.is_global else config.local_area
    frames = random_resized_crop(frames, group.size, area, RATIO, rng)
    if rng.random() < config.flip:
        frames = frames[:, :, ::-1]
    if rng.random() < config.jitter:
        frames = jitter_colours(frames, config.colours, rng)
    if rng.random() < config.grey:
        frames = np.repeat(np.rint(frames @ LUMA).astype(np.uint8)[..., None], 3, axis=-1)
    return frames
