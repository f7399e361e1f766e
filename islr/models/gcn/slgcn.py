"""SL-GCN: decoupled graph convolution, attention over points, frames and channels, and DropGraph.

Jiang et al. (arXiv 2103.08833) on the decoupled graph convolution and DropGraph of Cheng et al. (ECCV 2020), in the
form of OpenHands (arXiv 2110.05877).

Shapes: B batch, C channels, T frames, V = 27 points, K = 3 subsets of a point's neighbours, G groups. Feature
maps are `[B, C, T, V]`.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from islr.errors import UserError
from islr.models.gcn.graph import PUBLISHED_CHANNELS, SUBSETS, TINY_CHANNELS, GraphEncoder, block_strides, temporal_conv
from islr.models.gcn.skeleton import EDGES, POINTS, directed_partition
from islr.models.presets import Preset

ATTENTION_KERNEL = 9  # frames that SL-GCN's attention over time sees
ATTENTION_GAIN = 1.5**3  # of its three attentions, whose gates start half open
SQUEEZE = 2  # its attention over channels narrows by this
DEGREE_FLOOR = 0.001  # keeps a point without neighbours from dividing by zero
CLOSED_GATE = 1e-6  # its graph convolutions start with their output scaled to this: blocks begin as shortcuts
DROP_BLOCKS = 4  # blocks at the end that DropGraph works in
DROP_FRAMES = 41  # frames that fall together
DROP_POINTS = 2 * len(EDGES) / len(POINTS)  # neighbours that fall with a point, on average
LINKED = 0.001  # weight above which two points are neighbours

Init = Literal["published", "fan_in"]


class DecoupledGraphConv(nn.Module):
    """Graph convolution whose adjacency is learned, one per group of channels ("decoupled", ECCV 2020).

    Channel c belongs to group c % G. As published, what reaches a point is divided by its sum and a small number: a
    point that nothing reaches at the start has gradients a thousand times those of others, so clip them.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        adjacency = torch.from_numpy(directed_partition())[:, None]
        self.adjacency = nn.Parameter(adjacency.repeat(1, groups, 1, 1))  # [K, G, V, V]
        self.weight = nn.Parameter(torch.empty(inputs, SUBSETS * outputs))
        self.bias = nn.Parameter(torch.empty(SUBSETS * outputs))
        self.spread_norm = nn.BatchNorm2d(SUBSETS * outputs)
        self.norm = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, T, V]` -> `[B, C', T, V]`."""
        adjacency = self.adjacency / (self.adjacency.sum(dim=2, keepdim=True) + DEGREE_FLOOR)
        parts = torch.einsum("bctv,cd->bdtv", x, self.weight.to(x.dtype)) + self.bias[:, None, None].to(x.dtype)
        parts = self.spread_norm(parts).unflatten(1, (SUBSETS, -1, self.groups))  # [B, K, C' / G, G, T, V]
        y = torch.einsum("bkrgtv,kgvw->brgtw", parts, adjacency.to(parts.dtype)).flatten(1, 2)
        return F.relu(self.norm(y) + self.shortcut(x))


class PlaceAttention(nn.Module):
    """SL-GCN's attention over points, then frames, then channels: each adds its share of what comes in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        points = len(POINTS) - 1 + len(POINTS) % 2  # an odd kernel that spans the graph
        self.points = nn.Conv1d(channels, 1, points, padding=points // 2)
        self.frames = nn.Conv1d(channels, 1, ATTENTION_KERNEL, padding=ATTENTION_KERNEL // 2)
        self.squeeze = nn.Linear(channels, channels // SQUEEZE)
        self.excite = nn.Linear(channels // SQUEEZE, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, T, V]` -> the same."""
        x = x + x * self.points(x.mean(dim=2)).sigmoid()[:, :, None]
        x = x + x * self.frames(x.mean(dim=3)).sigmoid()[..., None]
        channels = self.excite(F.relu(self.squeeze(x.mean(dim=(2, 3))))).sigmoid()  # [B, C]
        return x + x * channels[:, :, None, None]


class DecoupledBlock(nn.Module):
    """SL-GCN's block: decoupled graph convolution, attention, convolution in time, DropGraph.

    Args:
        inputs: Channels.
        outputs: Channels.
        groups: Of the graph convolution.
        stride: Of the convolution in time.
        shortcut: Whether what comes in is added to what goes out.
        drop_graph: Chance by which points and frames fall, in training.
    """

    def __init__(self, inputs: int, outputs: int, groups: int, stride: int, shortcut: bool, drop_graph: float) -> None:
        super().__init__()
        self.graph = DecoupledGraphConv(inputs, outputs, groups)
        self.attention = PlaceAttention(outputs)
        self.temporal = temporal_conv(outputs, outputs, stride)
        self.temporal_norm = nn.BatchNorm2d(outputs)
        self.drop_graph = drop_graph
        self.has_shortcut = shortcut
        self.shortcut: nn.Module = nn.Identity()
        if shortcut and (inputs != outputs or stride != 1):
            self.shortcut = nn.Sequential(temporal_conv(inputs, outputs, stride, kernel=1), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """Map `[B, C, T, V]` -> `[B, C', T', V]`."""
        y = self._drop(self.temporal_norm(self.temporal(self.attention(self.graph(x)))), adjacency)
        return F.relu(y + self._drop(self.shortcut(x), adjacency)) if self.has_shortcut else F.relu(y)

    def _drop(self, x: Tensor, adjacency: Tensor) -> Tensor:
        if not self.training or self.drop_graph == 0:
            return x
        return drop_frames(drop_points(x, self.drop_graph, adjacency), self.drop_graph)


def drop_points(x: Tensor, rate: float, adjacency: Tensor) -> Tensor:
    """DropGraph in space: points fall with their neighbours, active ones more often; the rest is scaled up.

    Args:
        x: `[B, C, T, V]`.
        rate: Share that falls, roughly.
        adjacency: `[V, V]`.
    """
    seeds = torch.bernoulli(_chances(x.abs().mean(dim=(1, 2)), rate / (1 + DROP_POINTS)))  # [B, V]
    kept = (seeds @ adjacency <= LINKED).to(x.dtype)
    return x * _scaled(kept)[:, None, None]


def drop_frames(x: Tensor, rate: float) -> Tensor:
    """DropGraph in time: runs of frames fall in `[B, C, T, V]`, active ones more often; the rest is scaled up."""
    seeds = torch.bernoulli(_chances(x.abs().mean(dim=(1, 3)), rate / DROP_FRAMES))  # [B, T]
    dropped = F.max_pool1d(seeds[:, None], DROP_FRAMES, stride=1, padding=DROP_FRAMES // 2)  # [B, 1, T]
    return x * _scaled(1 - dropped.to(x.dtype))[..., None]


def _chances(activity: Tensor, rate: float) -> Tensor:
    """Return each place's drop probability: `rate` times its activity relative to the batch's mean."""
    activity = activity.detach().float()
    return (activity / activity.mean() * rate).nan_to_num().clamp(max=1)  # nothing is active in an empty batch


def _scaled(kept: Tensor) -> Tensor:
    return kept * (kept.numel() / kept.sum().clamp(min=1))


class SLGCN(GraphEncoder):
    """SL-GCN; `slgcn` and `slgcn_tiny` are presets.

    Args:
        frames: Frames per clip.
        channels: Width of each block.
        groups: Groups of channels that share an adjacency.
        drop_graph: Chance by which points and frames fall in the last blocks, in training (1 - `keep_prob`).
        init: `published`, at which graph convolutions, attention over frames and over channels start switched off;
            or `fan_in`, at which they start open and narrow networks learn sooner.

    Raises:
        UserError: No frames, no blocks, groups that do not divide the channels, or an unknown `init`.
    """

    source = "SL-GCN (arXiv 2103.08833), OpenHands' form (arXiv 2110.05877)"

    def __init__(
        self,
        *,
        frames: int,
        channels: Sequence[int],
        groups: int = 8,
        drop_graph: float = 0.0,
        init: Init = "published",
    ) -> None:
        if any(width % groups for width in channels):
            raise UserError(f"groups={groups} does not divide all channels {list(channels)}")
        if init not in get_args(Init):
            raise UserError(f"init='{init}' is unknown; it is one of {', '.join(get_args(Init))}")
        first_dropping = len(channels) - DROP_BLOCKS
        blocks = [
            DecoupledBlock(inputs, outputs, groups, stride, number > 0, drop_graph if number >= first_dropping else 0.0)
            for number, (inputs, outputs, stride) in enumerate(block_strides(channels))
        ]
        adjacency = torch.from_numpy(directed_partition().sum(axis=0))
        super().__init__(frames=frames, channels=channels, blocks=blocks, adjacency=adjacency)
        for block in blocks:
            _init_decoupled(block, init)


def _init_decoupled(block: DecoupledBlock, init: Init) -> None:
    """Initialise as OpenHands, or the same with every gate open."""
    for module in block.modules():
        if isinstance(module, nn.Conv2d) and init == "published":
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    graph, attention = block.graph, block.attention
    nn.init.xavier_normal_(attention.points.weight)
    nn.init.kaiming_normal_(attention.squeeze.weight)
    for name, parameter in block.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    inputs, outputs = graph.weight.shape
    if init == "published":
        nn.init.normal_(graph.weight, std=math.sqrt(0.5 / outputs))
        nn.init.constant_(graph.bias, CLOSED_GATE)
        nn.init.constant_(graph.norm.weight, CLOSED_GATE)
        nn.init.zeros_(attention.frames.weight)
        nn.init.zeros_(attention.excite.weight)
    else:
        with torch.no_grad():
            block.temporal.weight.div_(ATTENTION_GAIN)
        nn.init.normal_(graph.weight, std=inputs**-0.5)
        nn.init.xavier_normal_(attention.frames.weight)
        nn.init.xavier_normal_(attention.excite.weight)


PRESETS = {
    "slgcn_tiny": Preset(SLGCN, {"frames": 16, "drop_graph": 0.0, "init": "fan_in"}, {"channels": TINY_CHANNELS}),
    # 3.6 million parameters; the published `keep_prob` is .9.
    "slgcn": Preset(SLGCN, {"frames": 64, "drop_graph": 0.1, "init": "published"}, {"channels": PUBLISHED_CHANNELS}),
}
