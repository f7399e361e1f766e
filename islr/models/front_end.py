"""The front end of every video encoder: the channels that its first layer sees of a clip.

`rgb` is the picture, as every published encoder takes it. `rgb+change` adds each place's difference from its own mean
over time: a fixed camera's background and the signer's clothes vanish there, and what moves remains.

No leak through masks: the mean is over the visible moments of a place, and where a moment is hidden the change is 0, so
at a place that is never visible it is 0 throughout. The added channels do not depend on any hidden pixel.

Shapes: B batch, C = 3 colours, T H W frames and pixels, t h w the cells of a mask.
"""

from typing import Literal

import torch
from torch import Tensor

from islr.errors import UserError

Input = Literal["rgb", "rgb+change"]
RGB: Input = "rgb"
CHANNELS: dict[str, int] = {RGB: 3, "rgb+change": 6}


def input_channels(input: str) -> int:
    """Return how many channels the first layer takes.

    Raises:
        UserError: An unknown input.
    """
    if input not in CHANNELS:
        raise UserError(f"input='{input}' is unknown; it is one of {', '.join(CHANNELS)}")
    return CHANNELS[input]


def with_change(clip: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Append the difference from each pixel's mean over its visible moments: `[B, C, T, H, W]` -> `[B, 2C, T, H, W]`.

    Args:
        clip: Normalised clips.
        hidden: bool `[B, t, h, w]`, true = hidden; each cell covers the same number of frames and of pixels.

    Raises:
        UserError: The clip is not made of whole cells.
    """
    if hidden is None:
        return torch.cat([clip, clip - clip.mean(dim=2, keepdim=True)], dim=1)
    if any(size % cells for size, cells in zip(clip.shape[2:], hidden.shape[1:], strict=True)):
        raise UserError(f"a mask of {list(hidden.shape[1:])} cells does not fit a clip of {list(clip.shape[2:])}")
    for axis in (1, 2, 3):
        hidden = hidden.repeat_interleave(clip.shape[axis + 1] // hidden.shape[axis], dim=axis)
    hidden = hidden[:, None]  # [B, 1, T, H, W]
    visible = clip.masked_fill(hidden, 0)
    moments = hidden.logical_not().sum(dim=2, keepdim=True).clamp(min=1)
    change = (clip - visible.sum(dim=2, keepdim=True) / moments).masked_fill(hidden, 0)
    return torch.cat([clip, change], dim=1)
