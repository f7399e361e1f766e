"""Straight lines between visible moments: what is known of a hidden movement without having learned anything.

Shapes: B clips, T frames, K points.
"""

import torch
from torch import Tensor


def straight_lines(xy: Tensor, known: Tensor) -> Tensor:
    """Return every point on the straight line between its nearest known moments; known points stay as they are.

    Before the first and after the last known moment a point rests there; one that its clip never shows is at its mean
    over the batch.

    Args:
        xy: `[B, T, K, 2]`.
        known: bool `[B, T, K]`.
    """
    frames = xy.shape[1]
    time = torch.arange(frames, device=xy.device).view(1, -1, 1)
    before = torch.where(known, time, -1).cummax(dim=1).values  # [B, T, K]; -1 = none
    after = torch.where(known, time, frames).flip(1).cummin(dim=1).values.flip(1)  # T = none
    first = torch.where(before < 0, after, before).clamp(max=frames - 1)
    last = torch.where(after == frames, before, after).clamp(min=0)
    start, end = (xy.gather(1, moment[..., None].expand_as(xy)) for moment in (first, last))
    share = (time - first) / (last - first).clamp(min=1)
    weight = known[..., None].to(xy.dtype)
    mean = (xy * weight).sum(dim=(0, 1)) / weight.sum(dim=(0, 1)).clamp(min=1)  # [K, 2]
    return torch.where(known.any(dim=1)[:, None, :, None], torch.lerp(start, end, share[..., None].to(xy.dtype)), mean)
