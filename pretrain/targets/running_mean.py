"""The running mean of targets: what a predictor can know that has seen the corpus and not the clip.

Shapes: M targets, N places, D width of a target.
"""

import torch
from torch import Tensor, nn

MOMENTUM = 0.99  # per step: the mean is that of the last hundred


class RunningMean(nn.Module):
    """Mean target of each place of a clip, zero where none was noted; with several ranks, of the first one's clips.

    Args:
        places: N, such as the tokens of a clip.
        dim: D.
    """

    total: Tensor
    count: Tensor

    def __init__(self, places: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(places, dim))
        self.register_buffer("count", torch.zeros(places, 1))

    @torch.no_grad()
    def note(self, place: Tensor, target: Tensor) -> None:
        """Add targets `[M, D]` at their places, int64 `[M]`."""
        for kept, new in (
            (self.total, target.float()),
            (self.count, torch.ones_like(target[:, :1], dtype=torch.float32)),
        ):
            kept.mul_(MOMENTUM).index_add_(0, place, new)

    def forward(self, place: Tensor) -> Tensor:
        """Return the mean of each place, `[M]` -> `[M, D]`."""
        return (self.total / self.count.clamp(min=torch.finfo(self.count.dtype).tiny))[place]
