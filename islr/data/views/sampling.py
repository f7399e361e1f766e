"""Frame sampling: which frames of a clip a view reads."""

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from islr.config import Config


class SamplingConfig(Config):
    """Frame sampling of training and evaluation clips.

    `uniform` spreads the frames over the whole sign, one per equal segment: isolated signs differ in length
    (WLASL: median 57 frames) and a fixed window would cut long signs and repeat the last frame of short ones.
    `span` is the fixed-rate window of the action recognition recipes: `stride` apart at `target_fps`.
    """

    kind: Literal["uniform", "span"] = Field("uniform", description="over the whole clip, or a window at a fixed rate")
    stride: int = Field(4, ge=1, description="with span: step between frames, in frames at target_fps")
    target_fps: float = Field(30.0, gt=0, description="with span: frame rate that stride refers to")

    @model_validator(mode="after")
    def _nothing_idle(self) -> "SamplingConfig":
        for name in ("stride", "target_fps"):
            if self.kind == "uniform" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} acts only with kind: span; leave {name} out, or set kind: span")
        return self

    def indices(
        self, length: int, fps: float, frames: int, rng: np.random.Generator | None, place: float = 0.5
    ) -> np.ndarray:
        """Return frame indices, int64 `[frames]`, ascending, in `0..length-1`; without `rng` those at `place`."""
        if self.kind == "uniform":
            return uniform_indices(length, frames, rng, place)
        return span_indices(length, fps, frames, self.stride, rng, place, target_fps=self.target_fps)


def uniform_indices(length: int, frames: int, rng: np.random.Generator | None = None, place: float = 0.5) -> np.ndarray:
    """Return one frame index from each of `frames` equal segments of the clip (TSN sampling, Wang et al. 2016).

    Args:
        length: Frames in the clip.
        frames: Number of indices; a shorter clip repeats frames, in order.
        rng: Draws the place inside each segment; None = `place` in all of them.
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
    """Return `frames` indices `stride` apart at `target_fps`; beyond the end the last frame repeats (SlowFast).

    Args:
        length: Frames in the clip.
        fps: The clip's own rate; the step is `stride * fps / target_fps` of its frames.
        frames: Number of indices.
        stride: Step in frames at `target_fps`.
        rng: Draws the start; None = the window at `place`.
        place: 0 = first window, 0.5 = centred, 1 = last.
        target_fps: Rate that `stride` refers to.
    """
    step = stride * fps / target_fps
    slack = max(length - step * frames, 0.0)
    start = slack * (place if rng is None else rng.random())
    return np.clip(start + np.arange(frames) * step, 0, length - 1).astype(np.int64)
