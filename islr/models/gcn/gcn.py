"""Graph convolution networks on a signer's skeleton: ST-GCN and SL-GCN, as OpenHands trains them.

ST-GCN: Yan et al. (arXiv 1801.07455). SL-GCN: Jiang et al. (arXiv 2103.08833) on the decoupled graph convolution
and DropGraph of Cheng et al. (ECCV 2020). The forms are those of AI4Bharat/OpenHands (arXiv 2110.05877): x and y of
27 points, ten blocks, 256 features.

Deviations, in what the networks are given: a point that is not seen lies at 0, 0, the shoulders' midpoint; in OpenHands
it lies where centring moves the corner of the picture, which tells of the signer's place in it. Pixels are squares;
there, x and y are shares of the picture's width and height.

Shapes: B batch, C channels, T frames, V = 27 points, K = 3 subsets of a point's neighbours, G groups. Feature maps
are `[B, C, T, V]`; tokens are (frame, point) places, `[B, T * V, C]`.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from islr.data.views.input_spec import InputSpec
from islr.errors import UserError
from islr.models.encoder import Encoder
from islr.models.gcn.skeleton import EDGES, POINTS, directed_partition, spatial_partition

COORDINATES = 2
SUBSETS = 3
TEMPORAL_KERNEL = 9
PUBLISHED_CHANNELS = (64, 64, 64, 64, 128, 128, 128, 256, 256, 256)

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


class GraphEncoder(Encoder):
    """What both networks share: the points, their batch norm, a stack of blocks and the mean over places.

    Batch norm makes clips of a batch see each other in training. A block halves the frames where the channels grow.

    Args:
        frames: Frames per clip; any number, since nothing depends on it but the check of what comes in.
        channels: Width of each block, one or more.
        blocks: The blocks.
        adjacency: Of the graph, as the blocks take it.

    Raises:
        UserError: No frames.
    """

    batch_norm = True

    def __init__(self, *, frames: int, channels: Sequence[int], blocks: Sequence[nn.Module], adjacency: Tensor) -> None:
        super().__init__()
        if frames < 1:
            raise UserError(f"frames={frames}: a pose encoder needs at least one frame")
        self.register_buffer("adjacency", adjacency)
        self.point_norm = nn.BatchNorm1d(len(POINTS) * COORDINATES)
        self.blocks = nn.ModuleList(blocks)
        self.input_spec = InputSpec(frames, 0, (), (), "pose")
        self.layer_dims = list(channels)
        self.dim = channels[-1]

    def forward(self, clip: Tensor) -> Tensor:
        """Mean over frames and points, `[B, dim]`."""
        return self.forward_maps(clip)[-1].mean(dim=(2, 3))

    def forward_layers(self, clip: Tensor) -> list[Tensor]:
        """Places after each block, `[B, T_l * V, C_l]`; a frame's points are neighbours."""
        return [features.flatten(2).transpose(1, 2) for features in self.forward_maps(clip)]

    def forward_maps(self, clip: Tensor) -> list[Tensor]:
        """Feature maps after each block, `[B, C_l, T_l, V]`."""
        self.check_clip(clip)
        return self.maps_of(graph_points(clip))

    def maps_of(self, points: Tensor) -> list[Tensor]:
        """Feature maps after each block of points `[B, T, V, 2]`."""
        batch, frames = points.shape[:2]
        features = self.point_norm(points.reshape(batch, frames, -1).transpose(1, 2))  # [B, V * 2, T]
        features = features.view(batch, len(POINTS), COORDINATES, frames).permute(0, 2, 3, 1)  # [B, 2, T, V]
        outputs = []
        for block in self.blocks:
            features = self.run_block(block, features, self.adjacency)
            outputs.append(features)
        return outputs

    def layer_of(self, parameter_name: str) -> int:
        """0 for the batch norm of the points, i + 1 for block i."""
        if parameter_name.startswith("blocks."):
            return int(parameter_name.split(".")[1]) + 1
        assert parameter_name.startswith("point_norm."), parameter_name
        return 0


def graph_points(clip: Tensor) -> Tensor:
    """x and y of the graph's points, `[B, T, V, 2]`, zero where not seen."""
    points = clip[:, :, POINTS]
    return points[..., :2] * (points[..., 2:] > 0)


def _strides(channels: Sequence[int]) -> list[tuple[int, int, int]]:
    """(inputs, outputs, stride in time) per block."""
    if not channels:
        raise UserError("channels is empty: a graph network has at least one block")
    sources = (COORDINATES, *channels[:-1])
    return [
        (inputs, outputs, 2 if number and outputs > inputs else 1)
        for number, (inputs, outputs) in enumerate(zip(sources, channels, strict=True))
    ]


def _temporal_conv(inputs: int, outputs: int, stride: int, kernel: int = TEMPORAL_KERNEL) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, (kernel, 1), (stride, 1), (kernel // 2, 0))


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
        self.temporal = _temporal_conv(outputs, outputs, stride)
        self.temporal_norm = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.has_shortcut = shortcut
        self.shortcut: nn.Module = nn.Identity()
        if shortcut and (inputs != outputs or stride != 1):
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, (stride, 1)), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """`[B, C, T, V]` -> `[B, C', T', V]`."""
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
    # A constant in front of a batch norm that averages over all it was added to.
    zero_gradient = ("temporal.bias", "shortcut.0.bias")

    def __init__(self, *, frames: int, channels: Sequence[int], dropout: float = 0.0) -> None:
        blocks = [
            GraphBlock(inputs, outputs, stride, shortcut=number > 0, dropout=dropout if number else 0.0)
            for number, (inputs, outputs, stride) in enumerate(_strides(channels))
        ]
        adjacency = torch.from_numpy(spatial_partition())
        super().__init__(frames=frames, channels=channels, blocks=blocks, adjacency=adjacency)


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
        """`[B, C, T, V]` -> `[B, C', T, V]`."""
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
        """`[B, C, T, V]` -> the same."""
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
        self.temporal = _temporal_conv(outputs, outputs, stride)
        self.temporal_norm = nn.BatchNorm2d(outputs)
        self.drop_graph = drop_graph
        self.has_shortcut = shortcut
        self.shortcut: nn.Module = nn.Identity()
        if shortcut and (inputs != outputs or stride != 1):
            self.shortcut = nn.Sequential(_temporal_conv(inputs, outputs, stride, kernel=1), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """`[B, C, T, V]` -> `[B, C', T', V]`."""
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
    """Chance of each place: `rate` times how much more active it is than the batch's mean."""
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
    # A constant in front of a batch norm that averages over all it was added to.
    zero_gradient = ("graph.bias", "temporal.bias", "shortcut.0.bias")

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
            for number, (inputs, outputs, stride) in enumerate(_strides(channels))
        ]
        adjacency = torch.from_numpy(directed_partition().sum(axis=0))
        super().__init__(frames=frames, channels=channels, blocks=blocks, adjacency=adjacency)
        for block in blocks:
            _init_decoupled(block, init)


def _init_decoupled(block: DecoupledBlock, init: Init) -> None:
    """OpenHands' start, or the same with every gate open."""
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


def stgcn(frames: int = 64, dropout: float = 0.0) -> STGCN:
    """The published ST-GCN, three million parameters.

    Args:
        frames: Frames per clip.
        dropout: As in `STGCN`; OpenHands pre-trains with 0.5.
    """
    return STGCN(frames=frames, channels=PUBLISHED_CHANNELS, dropout=dropout)


def stgcn_tiny(frames: int = 16, dropout: float = 0.0) -> STGCN:
    """A quarter of a million parameters, four blocks.

    Args:
        frames: Frames per clip.
        dropout: As in `STGCN`.
    """
    return STGCN(frames=frames, channels=(32, 64, 64, 96), dropout=dropout)


def slgcn(frames: int = 64, drop_graph: float = 0.1, init: Init = "published") -> SLGCN:
    """The published SL-GCN, 3.6 million parameters.

    Args:
        frames: Frames per clip.
        drop_graph: As in `SLGCN`; the published `keep_prob` is 0.9.
        init: As in `SLGCN`.
    """
    return SLGCN(frames=frames, channels=PUBLISHED_CHANNELS, drop_graph=drop_graph, init=init)


def slgcn_tiny(frames: int = 16, drop_graph: float = 0.0, init: Init = "fan_in") -> SLGCN:
    """A quarter of a million parameters, four blocks.

    Args:
        frames: Frames per clip.
        drop_graph: As in `SLGCN`.
        init: As in `SLGCN`.
    """
    return SLGCN(frames=frames, channels=(32, 64, 64, 96), drop_graph=drop_graph, init=init)
