"""A transformer over part tokens of a pose sequence: one token per frame for the body and for each hand.

Shapes: B batch, T frames, P = 3 parts, K points of a part, N = T * P tokens (a frame's three parts are
neighbours), D width, A heads. Input is `[B, T, 75, 3]`: x, y in shoulder widths around the shoulders'
midpoint, confidence.
"""

from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from islr.data.poses.pose import BODY, HAND_MIDDLE_MCP, HAND_ROOT, LEFT_HAND, RIGHT_HAND
from islr.data.views.input_spec import InputSpec
from islr.errors import UserError
from islr.models.encoder import FAN_IN_POSITION_STD, Encoder
from islr.models.presets import Preset
from islr.models.transformer import drop_path_rates, init_linear, sincos_positions, transformer_block

# Nose, eyes, ears, shoulders, elbows, wrists; a signer's legs are rarely in the picture.
BODY_POINTS = tuple(BODY.start + point for point in (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16))
PARTS = ("body", "left hand", "right hand")
HAND_POINTS = 22  # 21 points relative to the hand's root, then the root's own place
PART_POINTS = (len(BODY_POINTS), HAND_POINTS, HAND_POINTS)
SMALLEST_HAND = 0.02  # shoulder widths; a palm seen exactly edge-on must not blow its fingers up
USUAL_HAND = 0.3  # palm length of a hand never seen whole

Pool = Literal["mean", "mean_max"]


class PartPoints(NamedTuple):
    """Points of one part: `xy` `[B, T, K, 2]`, zero where not seen, and `confidence` `[B, T, K]`."""

    xy: Tensor
    confidence: Tensor


def part_points(clip: Tensor) -> list[PartPoints]:
    """Split a normalised pose into its parts; a hand is described by its shape and, apart from it, its place.

    Finger points are relative to the hand's root and divided by the palm's length (its median over the clip),
    so the same handshape has the same numbers wherever it is made.
    """
    xy, confidence = clip[..., :2], clip[..., 2]
    seen = (confidence > 0).to(xy.dtype)
    parts = [_with_zeros(xy[:, :, BODY_POINTS], confidence[:, :, BODY_POINTS])]
    for hand in (LEFT_HAND, RIGHT_HAND):
        points, trust = xy[:, :, hand], confidence[:, :, hand]
        root = points[:, :, HAND_ROOT : HAND_ROOT + 1]  # [B, T, 1, 2]
        shape = (points - root) / hand_sizes(clip, hand)[:, None, None, None]
        rooted = trust * seen[:, :, hand][..., HAND_ROOT, None]  # without its root a point has no relative place
        parts.append(
            _with_zeros(torch.cat([shape, root], dim=2), torch.cat([rooted, trust[..., HAND_ROOT, None]], dim=2))
        )
    return parts


def hand_sizes(clip: Tensor, hand: slice) -> Tensor:
    """Return the palm length of one hand in each clip, `[B]`: the median over the frames that show it."""
    root, knuckle = clip[:, :, hand.start + HAND_ROOT], clip[:, :, hand.start + HAND_MIDDLE_MCP]  # [B, T, 3]
    lengths = (knuckle[..., :2] - root[..., :2]).norm(dim=-1)
    absent = (root[..., 2] == 0) | (knuckle[..., 2] == 0)
    return lengths.masked_fill(absent, torch.nan).nanmedian(dim=1).values.nan_to_num(USUAL_HAND).clamp(SMALLEST_HAND)


def _with_zeros(xy: Tensor, confidence: Tensor) -> PartPoints:
    return PartPoints(xy * (confidence > 0)[..., None], confidence)


class PoseTransformer(Encoder):
    """Transformer encoder of part tokens; it can be given the visible tokens alone, as masked modelling
    needs.

    Args:
        frames: Frames per clip.
        dim: Token width.
        depth: Blocks.
        heads: Attention heads.
        drop_path: Stochastic depth of the last block; earlier blocks have proportionally less.
        pool: What `forward` returns of the last block's tokens: their mean, or mean and maximum side by side. A
            short movement stands out in the maximum and drowns in the mean.

    Raises:
        UserError: No frames, or an unknown `pool`.
    """

    source = "ours: ViT blocks (arXiv 2010.11929) on part tokens"
    retired: ClassVar = {"time_embed": "positions in time are fixed sines now, not learned; train the encoder again"}
    positions: Tensor

    def __init__(
        self, *, frames: int, dim: int, depth: int, heads: int, drop_path: float = 0.0, pool: Pool = "mean"
    ) -> None:
        super().__init__()
        if frames < 1:
            raise UserError(f"frames={frames}: a pose encoder needs at least one frame")
        if pool not in get_args(Pool):
            raise UserError(f"pool='{pool}' is unknown; it is one of {', '.join(get_args(Pool))}")
        self.pool = pool
        self.part_embeds = nn.ModuleList(nn.Linear(3 * points, dim) for points in PART_POINTS)
        # Fixed: from a random table each pair of neighbouring moments would have to be learned.
        self.register_buffer("positions", sincos_positions(frames, dim), persistent=False)
        self.part_embed = nn.Parameter(torch.empty(len(PARTS), dim))
        rates = drop_path_rates(drop_path, depth)
        self.blocks = nn.ModuleList(transformer_block(dim, heads, drop_path=rate) for rate in rates)
        self.input_spec = InputSpec(frames, 0, (), (), "pose")
        self.dim, self.layer_dims = 2 * dim if pool == "mean_max" else dim, [dim] * depth
        self.apply(init_linear)
        nn.init.normal_(self.part_embed, std=FAN_IN_POSITION_STD)

    def forward(self, clip: Tensor) -> Tensor:
        """Pool the tokens of visible parts, `[B, dim]`; all tokens in a clip without any."""
        tokens = self.forward_tokens(clip)[-1]
        seen = self.seen(clip).flatten(1)[..., None]  # [B, N, 1]
        seen = seen | ~seen.any(dim=1, keepdim=True)
        weight = seen.to(tokens.dtype)
        mean = (tokens * weight).sum(dim=1) / weight.sum(dim=1)
        if self.pool == "mean":
            return mean
        return torch.cat([mean, tokens.masked_fill(~seen, -torch.inf).amax(dim=1)], dim=-1)

    def forward_layers(self, clip: Tensor) -> list[Tensor]:
        """Return tokens `[B, T * P, D]` after each block."""
        return self.forward_tokens(clip)

    def forward_tokens(self, clip: Tensor, visible: Tensor | None = None) -> list[Tensor]:
        """Return tokens after each block.

        Args:
            clip: `[B, T, 75, 3]`.
            visible: int64 `[B, V]`, the tokens to encode (index t * P + part); None = all. The others are not
                seen.

        Returns:
            `[B, V, D]` per block.
        """
        self.check_clip(clip)
        tokens = self.embed(clip).flatten(1, 2)  # [B, N, D]
        if visible is not None:
            tokens = tokens.gather(1, visible[..., None].expand(-1, -1, tokens.shape[-1]))
        outputs = []
        for block in self.blocks:
            tokens = self.run_block(block, tokens)
            outputs.append(tokens)
        return outputs

    def embed(self, clip: Tensor) -> Tensor:
        """Return part tokens before the first block, `[B, T, P, D]`."""
        parts = [
            embed(torch.cat([part.xy.flatten(2), part.confidence], dim=-1))
            for embed, part in zip(self.part_embeds, part_points(clip), strict=True)
        ]
        return torch.stack(parts, dim=2) + self.positions[:, None] + self.part_embed

    @staticmethod
    def seen(clip: Tensor) -> Tensor:
        """Return which parts have a visible point: bool `[B, T, P]`."""
        return torch.stack([(part.confidence > 0).any(dim=-1) for part in part_points(clip)], dim=-1)

    def layer_of(self, parameter_name: str) -> int:
        """Return 0 for the embeddings, i + 1 for block i."""
        if parameter_name.startswith("blocks."):
            return int(parameter_name.split(".")[1]) + 1
        assert parameter_name.startswith("part_embed"), parameter_name
        return 0


PRESETS = {
    "pose_transformer_tiny": Preset(
        PoseTransformer, {"frames": 64, "drop_path": 0.0, "pool": "mean"}, {"dim": 96, "depth": 4, "heads": 4}
    ),
    "pose_transformer_base": Preset(
        PoseTransformer, {"frames": 64, "drop_path": 0.1, "pool": "mean"}, {"dim": 256, "depth": 6, "heads": 8}
    ),
}
