"""What the graph convolution networks on a signer's skeleton share, in the form that OpenHands trains.

AI4Bharat/OpenHands (arXiv 2110.05877): x and y of 27 points, ten blocks, 256 features.

Deviation: OpenHands puts a missing point where centring moves the corner of the picture, which gives away the signer's
place in the picture; here it lies at 0, 0, the shoulders' midpoint. And here x and y have one unit; there, they are
shares of the picture's width and height.

Shapes: B batch, C channels, T frames, V = 27 points, K = 3 subsets of a point's neighbours. Feature maps are
`[B, C, T, V]`. Tokens are (frame, point) places, `[B, T * V, C]`.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from islr.data.views.input_spec import InputSpec
from islr.errors import UserError
from islr.models.encoder import Encoder
from islr.models.gcn.skeleton import POINTS

COORDINATES = 2
SUBSETS = 3
TEMPORAL_KERNEL = 9
TINY_CHANNELS = (32, 64, 64, 96)
PUBLISHED_CHANNELS = (64, 64, 64, 64, 128, 128, 128, 256, 256, 256)


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
        """Return the mean over frames and points, `[B, dim]`."""
        return self.forward_maps(clip)[-1].mean(dim=(2, 3))

    def forward_layers(self, clip: Tensor) -> list[Tensor]:
        """Return places after each block, `[B, T_l * V, C_l]`; a frame's points are neighbours."""
        return [features.flatten(2).transpose(1, 2) for features in self.forward_maps(clip)]

    def forward_maps(self, clip: Tensor) -> list[Tensor]:
        """Return feature maps after each block, `[B, C_l, T_l, V]`."""
        self.check_clip(clip)
        return self.maps_of(graph_points(clip))

    def maps_of(self, points: Tensor) -> list[Tensor]:
        """Return feature maps after each block of points `[B, T, V, 2]`."""
        batch, frames = points.shape[:2]
        features = self.point_norm(points.reshape(batch, frames, -1).transpose(1, 2))  # [B, V * 2, T]
        features = features.view(batch, len(POINTS), COORDINATES, frames).permute(0, 2, 3, 1)  # [B, 2, T, V]
        outputs = []
        for block in self.blocks:
            features = self.run_block(block, features, self.adjacency)
            outputs.append(features)
        return outputs

    def layer_of(self, parameter_name: str) -> int:
        """Return 0 for the batch norm of the points, i + 1 for block i."""
        if parameter_name.startswith("blocks."):
            return int(parameter_name.split(".")[1]) + 1
        assert parameter_name.startswith("point_norm."), parameter_name
        return 0


def graph_points(clip: Tensor) -> Tensor:
    """x and y of the graph's points, `[B, T, V, 2]`, zero where not seen."""
    points = clip[:, :, POINTS]
    return points[..., :2] * (points[..., 2:] > 0)


def block_strides(channels: Sequence[int]) -> list[tuple[int, int, int]]:
    """(inputs, outputs, stride in time) per block."""
    if not channels:
        raise UserError("channels is empty: a graph network has at least one block")
    sources = (COORDINATES, *channels[:-1])
    return [
        (inputs, outputs, 2 if number and outputs > inputs else 1)
        for number, (inputs, outputs) in enumerate(zip(sources, channels, strict=True))
    ]


def temporal_conv(inputs: int, outputs: int, stride: int, kernel: int = TEMPORAL_KERNEL) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, (kernel, 1), (stride, 1), (kernel // 2, 0))
