"""ST-GCN: graph convolution over a point's neighbours, then convolution over time.

Yan et al. (arXiv 1801.07455), in the form of OpenHands (arXiv 2110.05877).

Shapes: B batch, C channels, T frames, V = 27 points, K = 3 subsets of a point's neighbours. Feature maps are
`[B, C, T, V]`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from islr.models.gcn.graph import PUBLISHED_CHANNELS, SUBSETS, TINY_CHANNELS, GraphEncoder, block_strides, temporal_conv
from islr.models.gcn.skeleton import POINTS, spatial_partition
from islr.models.presets import Preset


class GraphBlock(nn.Module):
    """ST-GCN's block: spread to neighbours, weighted by learned importance, then convolve in time.

    Args:
        inputs: Channels.
        outputs: Channels.
        stride: Of the convolution in time.
        shortcut: Whether what comes in is added to what goes out.
        dropout: Of the convolution's result.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: bool, dropout: float) -> None:
        super().__init__()
        self.importance = nn.Parameter(torch.ones(SUBSETS, len(POINTS), len(POINTS)))
        self.spread = nn.Conv2d(inputs, SUBSETS * outputs, 1)
        self.spread_norm = nn.BatchNorm2d(outputs)
        self.temporal = temporal_conv(outputs, outputs, stride)
        self.temporal_norm = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.has_shortcut = shortcut
        self.shortcut: nn.Module = nn.Identity()
        if shortcut and (inputs != outputs or stride != 1):
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, (stride, 1)), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """Map `[B, C, T, V]` -> `[B, C', T', V]`."""
        parts = self.spread(x).unflatten(1, (SUBSETS, -1))  # [B, K, C', T, V]
        y = torch.einsum("bkctv,kvw->bctw", parts, (adjacency * self.importance).to(parts.dtype))
        y = self.temporal(F.relu(self.spread_norm(y)))
        y = self.dropout(self.temporal_norm(y))
        return F.relu(y + self.shortcut(x)) if self.has_shortcut else F.relu(y)


class STGCN(GraphEncoder):
    """ST-GCN with edge importance; `stgcn` and `stgcn_tiny` are presets.

    Args:
        frames: Frames per clip.
        channels: Width of each block.
        dropout: After each block's convolution in time, but the first's.

    Raises:
        UserError: No frames, or no blocks.
    """

    source = "ST-GCN (arXiv 1801.07455), OpenHands' form (arXiv 2110.05877)"

    def __init__(self, *, frames: int, channels: Sequence[int], dropout: float = 0.0) -> None:
        blocks = [
            GraphBlock(inputs, outputs, stride, shortcut=number > 0, dropout=dropout if number else 0.0)
            for number, (inputs, outputs, stride) in enumerate(block_strides(channels))
        ]
        adjacency = torch.from_numpy(spatial_partition())
        super().__init__(frames=frames, channels=channels, blocks=blocks, adjacency=adjacency)


PRESETS = {
    "stgcn_tiny": Preset(STGCN, {"frames": 16, "dropout": 0.0}, {"channels": TINY_CHANNELS}),
    # Three million parameters; OpenHands pre-trains with a dropout of .5.
    "stgcn": Preset(STGCN, {"frames": 64, "dropout": 0.0}, {"channels": PUBLISHED_CHANNELS}),
}
