"""TimeSformer: attention over time, then over space, in every block.

Bertasius et al., "Is Space-Time Attention All You Need for Video Understanding?" (arXiv 2102.05095), divided
space-time attention, as facebookresearch/TimeSformer and kahnchana/svt compute it. It takes any number of frames and
any size that the patches divide; learned positions follow by nearest neighbour, as there.

Shapes: B batch, T frames, H W pixels, h w a frame's patches, n = h * w, N = T * n tokens, D width, A heads. Tokens are
`[B, 1 + N, D]`: the class token, then the patches in the order (time, row, column).
"""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from timm.layers import Attention, DropPath, Mlp
from torch import Tensor, nn

from islr.data.views.input_spec import InputSpec
from islr.errors import UserError
from islr.models.encoder import FAN_IN_POSITION_STD, INIT_STD, NORM_EPS, NORMALISATIONS, Encoder, Normalisation
from islr.models.front_end import Input, input_channels
from islr.models.presets import Preset
from islr.models.transformer import drop_path_rates, init_linear

MLP_RATIO = 4

Init = Literal["timesformer", "fan_in"]


class DividedBlock(nn.Module):
    """One block (arXiv 2102.05095 equations 8 to 10); parameter names are those of TimeSformer's files.

    Args:
        dim: Token width.
        heads: Attention heads, of both attentions.
        drop_path: Chance of skipping a branch: of one place over time, of one frame, of one clip's MLP.
    """

    def __init__(self, dim: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.temporal_norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.temporal_attn = Attention(dim, num_heads=heads, qkv_bias=True)
        self.temporal_fc = nn.Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, num_heads=heads, qkv_bias=True)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, MLP_RATIO * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, frames: int) -> Tensor:
        """Map `[B, 1 + N, D]` -> the same."""
        tokens = self._over_time(tokens, frames)
        seen = self.drop_path(self.attn(self.norm1(per_frame(tokens, frames)))).unflatten(0, (-1, frames))
        # What the copies of the class token saw, each in its frame, is averaged.
        change = torch.cat([seen[:, :, 0].mean(dim=1, keepdim=True), seen[:, :, 1:].flatten(1, 2)], dim=1)
        tokens = tokens + change  # [B, 1 + N, D]
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))

    def class_attention(self, tokens: Tensor, frames: int) -> Tensor:
        """Return the class token's attention within each frame, `[B, T, A, n]`; each head's sum is at most 1."""
        within = self.norm1(per_frame(self._over_time(tokens, frames), frames))  # [B * T, 1 + n, D]
        query, key, _ = self.attn.qkv(within).unflatten(-1, (3, self.attn.num_heads, -1)).unbind(dim=2)
        scores = torch.einsum("zad,znad->zan", query[:, 0], key) * self.attn.scale  # [B * T, A, 1 + n]
        return scores.softmax(dim=-1)[..., 1:].unflatten(0, (-1, frames))

    def _over_time(self, tokens: Tensor, frames: int) -> Tensor:
        """Attend along time within each patch position, without the class token."""
        patches = tokens[:, 1:].unflatten(1, (frames, -1))  # [B, T, n, D]
        tubes = patches.transpose(1, 2).flatten(0, 1)  # [B * n, T, D]
        tubes = self.temporal_fc(self.drop_path(self.temporal_attn(self.temporal_norm1(tubes))))
        patches = patches + tubes.unflatten(0, (-1, patches.shape[2])).transpose(1, 2)
        return torch.cat([tokens[:, :1], patches.flatten(1, 2)], dim=1)


def per_frame(tokens: Tensor, frames: int) -> Tensor:
    """Return the tokens of each frame with a copy of the class token: `[B, 1 + N, D]` -> `[B * T, 1 + n, D]`."""
    patches = tokens[:, 1:].unflatten(1, (frames, -1))  # [B, T, n, D]
    copies = tokens[:, None, :1].expand(-1, frames, -1, -1)  # [B, T, 1, D]
    return torch.cat([copies, patches], dim=2).flatten(0, 1)


class TimeSformer(Encoder):
    """A TimeSformer from its numbers; `timesformer_tiny` and `timesformer_b` are presets of it.

    Args:
        frames: Frames that there are learned moments for, and that views are made with; clips may have others.
        size: Height and width that there are learned places for, and that views are made with; clips may differ.
        patch_size: Side of a patch in pixels.
        dim: Token width.
        depth: Blocks.
        heads: Attention heads.
        drop_path: Stochastic depth of the last block; earlier blocks have proportionally less.
        normalisation: `imagenet` in SVT's pre-training, `slowfast` in TimeSformer's own.
        init: `timesformer` (truncated normal of .02; attention over time and the moments start at zero, so that the
            fresh model does not see the order of frames), or `fan_in` (truncated normal of 1 / sqrt(inputs),
            nothing at zero but biases), with which narrow encoders start to learn many times sooner.
        input: `rgb`, or `rgb+change` (`islr/models/front_end.py`).

    Raises:
        UserError: The patches do not divide the size, the heads not the width, or a name is unknown.
    """

    def __init__(
        self,
        *,
        frames: int,
        size: int,
        patch_size: int,
        dim: int,
        depth: int,
        heads: int,
        drop_path: float = 0.0,
        normalisation: Normalisation = "imagenet",
        init: Init = "timesformer",
        input: Input = "rgb",
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("normalisation", normalisation, tuple(NORMALISATIONS)),
            ("init", init, get_args(Init)),
        ):
            if value not in known:
                raise UserError(f"{name}='{value}' is unknown; it is one of {', '.join(known)}")
        if frames < 1:
            raise UserError(f"frames={frames}: a clip has at least one frame")
        if size < patch_size or size % patch_size:
            lower = max(size // patch_size, 1) * patch_size
            raise UserError(f"size={size} must be a multiple of {patch_size}, such as {lower} or {lower + patch_size}")
        if dim % heads:
            raise UserError(f"heads={heads} does not divide dim={dim}")
        self.patch_size, self.input = patch_size, input
        projection = nn.Conv2d(input_channels(input), dim, patch_size, stride=patch_size)
        self.patch_embed = nn.ModuleDict({"proj": projection})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (size // patch_size) ** 2, dim))
        self.time_embed = nn.Parameter(torch.zeros(1, frames, dim))
        self.blocks = nn.ModuleList(DividedBlock(dim, heads, rate) for rate in drop_path_rates(drop_path, depth))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.input_spec = InputSpec(frames, size, *NORMALISATIONS[normalisation], "video")
        self.dim, self.layer_dims = dim, [dim] * depth
        if init == "timesformer":
            self._timesformer_init()
        else:
            self._fan_in_init()

    source = "TimeSformer (arXiv 2102.05095; facebookresearch/TimeSformer), the encoder of SVT (arXiv 2112.01514)"

    def forward(self, clip: Tensor) -> Tensor:
        """Encode normalised clips `[B, 3, T, H, W]` into the class token after the last norm, `[B, dim]`."""
        return self.norm(self.forward_tokens(clip)[-1][:, 0])

    def forward_layers(self, clip: Tensor) -> list[Tensor]:
        """Return patch tokens `[B, N, D]` after each block, in the order (time, row, column)."""
        return [tokens[:, 1:] for tokens in self.forward_tokens(clip)]

    def forward_tokens(self, clip: Tensor) -> list[Tensor]:
        """Return all tokens after each block, `[B, 1 + N, D]`, the class token first.

        Args:
            clip: Normalised clips `[B, 3, T, H, W]`, any T, H and W multiples of the patch.
        """
        tokens, outputs = self.embed(clip), []
        for block in self.blocks:
            tokens = self.run_block(block, tokens, clip.shape[2])
            outputs.append(tokens)
        return outputs

    def embed(self, clip: Tensor) -> Tensor:
        """Return tokens before the first block, `[B, 1 + N, D]`."""
        self.check_clip(clip)
        batch, frames = clip.shape[0], clip.shape[2]
        patches = self.patch_embed["proj"](self.front_end(clip).transpose(1, 2).flatten(0, 1))  # [B * T, D, h, w]
        places = nearest_places(self.pos_embed[:, 1:], patches.shape[2], patches.shape[3])  # [1, n, D]
        moments = nearest_moments(self.time_embed, frames)  # [1, T, D]
        patches = patches.flatten(2).transpose(1, 2).unflatten(0, (batch, frames))  # [B, T, n, D]
        patches = patches + places[:, None] + moments[:, :, None]
        summary = (self.cls_token + self.pos_embed[:, :1]).expand(batch, -1, -1).to(patches.dtype)
        return torch.cat([summary, patches.flatten(1, 2)], dim=1)

    def class_attention(self, clip: Tensor) -> Tensor:
        """Return the class token's attention in the last block, `[B, T, A, h, w]`; each head's sum is at most 1."""
        tokens = self.embed(clip)
        for block in self.blocks[:-1]:
            tokens = block(tokens, clip.shape[2])
        last = self.blocks[-1]
        assert isinstance(last, DividedBlock)
        attention = last.class_attention(tokens, clip.shape[2])
        return attention.unflatten(-1, (clip.shape[3] // self.patch_size, clip.shape[4] // self.patch_size))

    def check_clip(self, clip: Tensor) -> None:
        """Refuse a clip that the patches do not fit; any number of frames and any such size is taken."""
        shape, side = clip.shape[1:], self.patch_size
        if len(shape) != 4 or shape[0] != 3 or min(shape) < 1 or shape[2] % side or shape[3] % side:
            raise UserError(
                f"{self.architecture or type(self).__name__} takes clips of shape [3, T, H, W] with H and W multiples "
                f"of {side}, not {list(shape)}; change the view"
            )

    def layer_of(self, parameter_name: str) -> int:
        """0 for the patch embedding, the positions and the class token, i + 1 for block i, the last for the norm."""
        if parameter_name.startswith("blocks."):
            return int(parameter_name.split(".")[1]) + 1
        if parameter_name.startswith("norm."):
            return self.num_layers - 1
        assert parameter_name.startswith(("patch_embed.", "pos_embed", "time_embed", "cls_token")), parameter_name
        return 0

    def resize_parameter(self, name: str, value: Tensor, shape: torch.Size) -> Tensor | None:
        """Positions are resized as `forward` does it, so loading for another input changes no result."""
        if value.ndim != 3 or value.shape[::2] != shape[::2]:
            return None
        if name == "time_embed":
            return nearest_moments(value, shape[1])
        if name == "pos_embed":
            side = math.isqrt(shape[1] - 1)
            return torch.cat([value[:, :1], nearest_places(value[:, 1:], side, side)], dim=1)
        return None

    def _timesformer_init(self) -> None:
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)
        for module in self.blocks:
            assert isinstance(module, DividedBlock)
            nn.init.zeros_(module.temporal_fc.weight)
        nn.init.trunc_normal_(self.pos_embed, std=INIT_STD)
        nn.init.trunc_normal_(self.cls_token, std=INIT_STD)

    def _fan_in_init(self) -> None:
        self.apply(init_linear)
        projection = self.patch_embed["proj"]
        assert isinstance(projection, nn.Conv2d)
        nn.init.trunc_normal_(projection.weight, std=projection.weight[0].numel() ** -0.5)
        assert projection.bias is not None
        nn.init.zeros_(projection.bias)
        for table in (self.pos_embed, self.time_embed, self.cls_token):
            nn.init.normal_(table, std=FAN_IN_POSITION_STD)


def nearest_places(table: Tensor, rows: int, columns: int) -> Tensor:
    """Positions of a square of patches `[1, n, D]` for `rows` x `columns` of them; nearest neighbour, as SVT."""
    side = math.isqrt(table.shape[1])
    if (rows, columns) == (side, side):
        return table
    square = table.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # [1, D, side, side]
    return F.interpolate(square, size=(rows, columns), mode="nearest").flatten(2).transpose(1, 2)


def nearest_moments(table: Tensor, frames: int) -> Tensor:
    """Positions in time `[1, T, D]` for another number of frames; nearest neighbour, as SVT."""
    if frames == table.shape[1]:
        return table
    return F.interpolate(table.transpose(1, 2), size=frames, mode="nearest").transpose(1, 2)


PRESETS = {
    # For two CPU cores, under a million parameters.
    "timesformer_tiny": Preset(
        TimeSformer,
        {"frames": 8, "size": 64, "drop_path": 0.0, "normalisation": "imagenet", "init": "fan_in", "input": "rgb"},
        {"patch_size": 16, "dim": 96, "depth": 4, "heads": 4},
    ),
    # TimeSformer and SVT, whose code both have a drop_path of .1. TimeSformer-HR and TimeSformer-L are the same network
    # on other clips: `frames=16, size=448` and `frames=96`.
    "timesformer_b": Preset(
        TimeSformer,
        {
            "frames": 8,
            "size": 224,
            "drop_path": 0.1,
            "normalisation": "imagenet",
            "init": "timesformer",
            "input": "rgb",
        },
        {"patch_size": 16, "dim": 768, "depth": 12, "heads": 12},
    ),
}
