"""Temporal convolutions, then a transformer, over the frames of a pose sequence.

Each frame is one token, the sum of the embeddings of body and hands: points, velocities, confidences. Gated depthwise
convolutions (the convolution module of Conformer, Gulati et al., arXiv 2005.08100 section 2.2) see the movement of
neighbouring frames, attention the order of the whole sign.

Shapes: B batch, T frames, P = 3 parts, K points of a part, D width. Input is `[B, T, 75, 3]`, as for
`islr.models.pose_transformer`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from islr.data.views.input_spec import InputSpec
from islr.errors import UserError
from islr.models.encoder import NORM_EPS, Encoder
from islr.models.pose_transformer import PART_POINTS, PARTS, part_points
from islr.models.presets import Preset
from islr.models.transformer import drop_path_rates, init_linear, sincos_positions, transformer_block

KERNEL = 11  # frames, a third of a sign at 32 frames
MLP_RATIO = 2.0  # half the usual: the convolutions have mixed the channels before
POINT_FEATURES = 5  # x and y, their velocities, confidence


class GatedConv(nn.Module):
    """Conformer's convolution module with its residual, `[B, T, D]` -> `[B, T, D]`.

    Args:
        dim: Width.
        dropout: Of the branch.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.gate = nn.Linear(dim, 2 * dim)
        self.conv = nn.Conv1d(dim, dim, KERNEL, padding=KERNEL // 2, groups=dim, bias=False)
        self.conv_norm = nn.BatchNorm1d(dim)
        self.project = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the gated convolution over time finds."""
        y = F.glu(self.gate(self.norm(x)), dim=-1).transpose(1, 2)  # [B, D, T]
        y = F.silu(self.conv_norm(self.conv(y))).transpose(1, 2)  # [B, T, D]
        return x + self.dropout(self.project(y))


class PoseConvTransformer(Encoder):
    """Gated temporal convolutions and transformer blocks over frames, pooled by their mean.

    BatchNorm makes clips of a batch see each other in training.

    Args:
        frames: Frames per clip.
        dim: Width.
        convs: Gated convolutions.
        depth: Transformer blocks after them.
        heads: Attention heads.
        dropout: On every branch.
        drop_path: Stochastic depth of the last transformer block; earlier ones have proportionally less.

    Raises:
        UserError: No frames.
    """

    source = "ours: Conformer's convolutions (arXiv 2005.08100) and ViT blocks (arXiv 2010.11929) on frames"
    batch_norm = True

    def __init__(
        self,
        *,
        frames: int,
        dim: int,
        convs: int,
        depth: int,
        heads: int,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if frames < 1:
            raise UserError(f"frames={frames}: a pose encoder needs at least one frame")
        self.part_embeds = nn.ModuleList(nn.Linear(POINT_FEATURES * points, dim) for points in PART_POINTS)
        self.register_buffer("positions", sincos_positions(frames, dim), persistent=False)
        self.blocks = nn.ModuleList(GatedConv(dim, dropout) for _ in range(convs))
        self.blocks.extend(
            transformer_block(dim, heads, MLP_RATIO, rate, dropout) for rate in drop_path_rates(drop_path, depth)
        )
        self.input_spec = InputSpec(frames, 0, (), (), "pose")
        self.dim, self.layer_dims = dim, [dim] * (convs + depth)
        self.apply(init_linear)

    positions: Tensor

    def forward(self, clip: Tensor) -> Tensor:
        """Return the mean over frames, `[B, dim]`."""
        return self.forward_frames(clip)[-1].mean(dim=1)

    def forward_layers(self, clip: Tensor) -> list[Tensor]:
        """Return frames `[B, T, D]` after each block."""
        return self.forward_frames(clip)

    def forward_tokens(self, clip: Tensor, visible: Tensor) -> list[Tensor]:
        """Return the frames of the visible parts after each block, as masked modelling needs.

        Args:
            clip: `[B, T, 75, 3]`.
            visible: int64 `[B, V]`, the parts to encode (index t * P + part). The others count as not detected.

        Returns:
            `[B, V, D]` per block: two visible parts of a frame have the same token.
        """
        hidden = torch.ones(len(clip), clip.shape[1] * len(PARTS), dtype=torch.bool, device=clip.device)
        hidden = hidden.scatter(1, visible, False).unflatten(1, (-1, len(PARTS)))
        index = (visible // len(PARTS))[..., None].expand(-1, -1, self.layer_dims[-1])
        return [frames.gather(1, index) for frames in self.forward_frames(clip, hidden)]

    def forward_frames(self, clip: Tensor, hidden: Tensor | None = None) -> list[Tensor]:
        """Return frames `[B, T, D]` after each block; `hidden`, bool `[B, T, P]`, are parts taken for not detected."""
        self.check_clip(clip)
        frames = self.embed(clip, hidden)
        outputs = []
        for block in self.blocks:
            frames = self.run_block(block, frames)
            outputs.append(frames)
        return outputs

    def embed(self, clip: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Return frames before the first block, `[B, T, D]`."""
        frames = self.positions
        for index, (embed, part) in enumerate(zip(self.part_embeds, part_points(clip), strict=True)):
            xy, confidence = part
            if hidden is not None:
                confidence = confidence.masked_fill(hidden[:, :, index, None], 0)
                xy = xy * (confidence > 0)[..., None]
            features = [xy.flatten(2), velocities(xy, confidence).flatten(2), confidence]
            frames = frames + embed(torch.cat(features, dim=-1))
        return frames

    def layer_of(self, parameter_name: str) -> int:
        """Return 0 for the embeddings, i + 1 for block i, convolutions first."""
        if parameter_name.startswith("blocks."):
            return int(parameter_name.split(".")[1]) + 1
        assert parameter_name.startswith("part_embeds."), parameter_name
        return 0


def velocities(xy: Tensor, confidence: Tensor) -> Tensor:
    """Return displacements since the frame before, `[B, T, K, 2]`; zero where a point is not seen in both frames."""
    seen = confidence > 0
    moved = (xy[:, 1:] - xy[:, :-1]) * (seen[:, 1:] & seen[:, :-1])[..., None]
    return F.pad(moved, (0, 0, 0, 0, 1, 0))


PRESETS = {
    "pose_conv_transformer_tiny": Preset(
        PoseConvTransformer,
        {"frames": 32, "dropout": 0.0, "drop_path": 0.0},
        {"dim": 96, "convs": 1, "depth": 2, "heads": 4},
    ),
    "pose_conv_transformer_small": Preset(
        PoseConvTransformer,
        {"frames": 32, "dropout": 0.0, "drop_path": 0.0},
        {"dim": 192, "convs": 3, "depth": 3, "heads": 4},
    ),
}
