"""Frame sampling: which frames of a clip a view reads."""

from collections.abc import Iterable
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from islr.config import Config
from islr.data.manifest import Clip

_OF_WINDOWS = ("stride", "target_fps")


class SamplingConfig(Config):
    """Frame sampling of training and evaluation clips.

    `whole` spreads the frames over the clip, one per equal segment: isolated signs differ in length (WLASL: median 57
    frames), and a window would cut long signs and repeat the last frame of short ones. `window` is that of the action
    recognition recipes: frames a constant time apart, whatever the clip's length. `auto` takes a window of each clip
    that is long enough for one, and all of a shorter clip, evenly: for corpora of signs, sentences and actions alike.
    """

    kind: Literal["whole", "window", "auto"] = Field(
        "whole", description="over the whole clip; a window at a constant stride; or auto: a window where one fits"
    )
    stride: int = Field(4, ge=1, description="window, auto: step between frames, in frames at target_fps")
    target_fps: float = Field(30.0, gt=0, description="window, auto: frame rate that stride refers to")

    @model_validator(mode="after")
    def _nothing_idle(self) -> "SamplingConfig":
        for name in _OF_WINDOWS:
            if self.kind == "whole" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} acts only with kind: window or auto; leave {name} out, or set kind")
        return self

    def takes_window(self, length: float, fps: float, frames: int) -> bool:
        """Return whether a sample of a clip of `length` frames is a window."""
        return self.kind == "window" or (self.kind == "auto" and length >= frames * self._step(fps))

    def windows(self, length: float, fps: float, frames: int) -> int:
        """Return how many windows side by side a clip holds; 1 where it is not cut."""
        return max(1, int(length / (frames * self._step(fps)))) if self.takes_window(length, fps, frames) else 1

    def spanned(self, length: float, fps: float, frames: int) -> float:
        """Return how many frames of a clip a sample needs to show no frame twice."""
        return (frames - 1) * self._step(fps) + 1 if self.takes_window(length, fps, frames) else float(frames)

    def indices(
        self, length: int, fps: float, frames: int, rng: np.random.Generator | None, place: float = 0.5
    ) -> np.ndarray:
        """Return frame indices, int64 `[frames]`, ascending, in `0..length-1`; without `rng` those at `place`."""
        if self.takes_window(length, fps, frames):
            return window_indices(length, frames, self._step(fps), rng, place)
        if self.kind == "auto" and rng is not None:  # evenly: a constant step, as in a window
            return uniform_indices(length, frames, None, rng.random())
        return uniform_indices(length, frames, rng, place)

    def places(self, length: int, fps: float, frames: int, views: int) -> list[float]:
        """Return the places of `views` evaluation views of a clip.

        Views of a whole clip interleave at (k + 1/2)/n of every segment; windows go from the first to the last.
        """
        if views > 1 and self.takes_window(length, fps, frames):
            return [view / (views - 1) for view in range(views)]
        return [(view + 0.5) / views for view in range(views)]

    def describe(self, clips: Iterable[Clip], frames: int) -> str:
        """Say what `auto` chose: of how many clips windows are taken; empty for the other kinds."""
        if self.kind != "auto":
            return ""
        measured = [clip for clip in clips if clip.frames]
        cut = sum(self.takes_window(clip.frames or 0, clip.fps or 25.0, frames) for clip in measured)
        seconds = frames * self.stride / self.target_fps
        return f"sampling auto: windows of {seconds:.2g} s from {cut} clips, {len(measured) - cut} shorter clips whole"

    def _step(self, fps: float) -> float:
        return self.stride * fps / self.target_fps


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


def window_indices(
    length: int, frames: int, step: float, rng: np.random.Generator | None = None, place: float = 0.5
) -> np.ndarray:
    """Return `frames` indices `step` of the clip's frames apart; beyond the end the last frame repeats (SlowFast).

    Args:
        length: Frames in the clip.
        frames: Number of indices.
        step: Frames of the clip between two indices.
        rng: Draws the start; None = the window at `place`.
        place: 0 = first window, 0.5 = centred, 1 = last.
    """
    slack = max(length - step * frames, 0.0)
    start = slack * (place if rng is None else rng.random())
    return np.clip(start + np.arange(frames) * step, 0, length - 1).astype(np.int64)
