"""Hiera: a hierarchical vision transformer of plain blocks, on video.

Ryali et al., "Hiera" (arXiv 2306.00989), built on timm's `Hiera`, whose layers take any number of axes; timm itself
registers only the image models. The numbers of the video models are those of facebookresearch/hiera
(`hiera_base_16x224`). Sign language work uses this family: SSVP-SLT (arXiv 2402.09611, 128 frames), SignRep.

Attention sees one mask unit (one moment of 8 x 8 tokens) in the first two stages and everything in the last two;
between stages tokens are max-pooled 2 x 2 in space.

Shapes: B batch, T H W frames and pixels, t h w the token grid, N tokens, D width. Tokens are kept in the order of
pooling (timm's `Unroll`).
"""

from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.models.hiera import Hiera
from torch import Tensor, nn

from islr.data.views.input_spec import InputSpec
from islr.errors import UserError
from islr.models.encoder import (
    FAN_IN_POSITION_STD,
    INIT_STD,
    NORM_EPS,
    NORMALISATIONS,
    Encoder,
    Normalisation,
    interpolate_positions,
)
from islr.models.front_end import Input, input_channels
from islr.models.presets import Preset
from islr.models.transformer import init_linear

# Axes are (time, height, width).
PATCH_KERNEL, PATCH_STRIDE, PATCH_PADDING = (3, 7, 7), (2, 4, 4), (1, 3, 3)
MASK_UNIT, POOL_STRIDE = (1, 8, 8), (1, 2, 2)
HIERA_BIAS = 0.02  # facebookresearch/hiera starts the biases of Linear and LayerNorm here, timm at 0

Init = Literal["hiera", "fan_in"]


class HieraEncoder(Encoder):
    """A video Hiera from its numbers; `hiera_tiny` and `hiera_b` are presets of it.

    Args:
        frames: Frames per clip, a multiple of 2.
        size: Height and width in pixels, a multiple of 32 (a mask unit).
        embed_dim: Width of the first stage; it doubles from stage to stage.
        num_heads: Heads of the first stage; they double too.
        stages: Blocks of each of the four stages.
        q_pool: After how many stages tokens are pooled: 3, or 2 for masked pre-training, which predicts at 16 pixels.
        drop_path: Stochastic depth of the last block; earlier blocks have proportionally less.
        init: `hiera` (truncated normal of .02, biases .02) or `fan_in` (truncated normal of 1 / sqrt(inputs)).
        normalisation: What the weights were or will be trained with.
        input: `rgb`, or `rgb+change` (`islr/models/front_end.py`).

    Raises:
        UserError: The size is not made of whole mask units.
    """

    source = "Hiera (arXiv 2306.00989), facebookresearch/hiera's video models on timm's Hiera"

    def __init__(
        self,
        *,
        frames: int,
        size: int,
        embed_dim: int,
        num_heads: int,
        stages: tuple[int, int, int, int],
        q_pool: int = 3,
        drop_path: float = 0.0,
        init: Init = "hiera",
        normalisation: Normalisation = "slowfast",
        input: Input = "rgb",
    ) -> None:
        super().__init__()
        side = PATCH_STRIDE[1] * MASK_UNIT[1]
        if frames < 1 or frames % PATCH_STRIDE[0]:
            raise UserError(f"frames={frames} does not fit the strides: it must be a multiple of {PATCH_STRIDE[0]}")
        if size < 1 or size % side:
            raise UserError(f"size={size} is not made of whole mask units: it must be a multiple of {side}")
        if q_pool not in (2, 3):
            raise UserError(f"q_pool={q_pool}: tokens are pooled after 2 or 3 stages")
        if init not in ("hiera", "fan_in"):
            raise UserError(f"init='{init}' is unknown; it is one of hiera, fan_in")
        trunk = _trunk(
            img_size=(frames, size, size),
            embed_dim=embed_dim,
            num_heads=num_heads,
            stages=tuple(stages),
            q_pool=q_pool,
            drop_path_rate=drop_path,
            in_chans=input_channels(input),
        )
        # The trunk's final norm and head are dropped: the task adds its own.
        self.patch_embed = trunk.patch_embed
        assert trunk.pos_embed_spatial is not None
        assert trunk.pos_embed_temporal is not None
        self.pos_embed_spatial: nn.Parameter = trunk.pos_embed_spatial  # [1, h * w, D]
        self.pos_embed_temporal: nn.Parameter = trunk.pos_embed_temporal  # [1, t, D]
        self.blocks = trunk.blocks
        self.unroll, self.reroll = trunk.unroll, trunk.reroll
        self.input = input
        self.input_spec = InputSpec(frames, size, *NORMALISATIONS[normalisation], "video")
        self.layer_dims = [embed_dim << stage for stage, depth in enumerate(stages) for _ in range(depth)]
        self.dim = self.layer_dims[-1]
        if init == "hiera":
            self.apply(_hiera_init)
        else:
            self.apply(init_linear)
            for positions in (self.pos_embed_spatial, self.pos_embed_temporal):
                nn.init.normal_(positions, std=FAN_IN_POSITION_STD)

    def forward(self, clip: Tensor) -> Tensor:
        """Return the mean of the last tokens, `[B, dim]`."""
        tokens = self.embed(clip)
        for block in self.blocks:
            tokens = self.run_block(block, tokens)
        return tokens.mean(dim=1)

    def forward_layers(self, clip: Tensor) -> list[Tensor]:
        """Return tokens `[B, N_l, D_l]` after each block, ordered by time, row, column."""
        tokens = self.embed(clip)
        outputs = []
        for index, block in enumerate(self.blocks):
            tokens = self.run_block(block, tokens)
            outputs.append(self.reroll(tokens, index).flatten(1, 3))
        return outputs

    def embed(self, clip: Tensor) -> Tensor:
        """Return patch embeddings with positions, `[B, N, D]` in the order of pooling."""
        self.check_clip(clip)
        positions = self.pos_embed_temporal[0, :, None] + self.pos_embed_spatial  # [t, h * w, D]
        return self.unroll(self.patch_embed(self.front_end(clip)) + positions.flatten(0, 1))

    def layer_of(self, parameter_name: str) -> int:
        """Return 0 for the patch embedding and the positions, i + 1 for block i."""
        if parameter_name.startswith("blocks."):
            return int(parameter_name.split(".")[1]) + 1
        assert parameter_name.startswith(("patch_embed.", "pos_embed_")), parameter_name
        return 0

    def resize_parameter(self, name: str, value: Tensor, shape: torch.Size) -> Tensor | None:
        """Positions follow the token grid: linear in time, bilinear in space."""
        if name == "pos_embed_temporal" and value.ndim == 3:
            return interpolate_positions(value[0], shape[1])[None]
        if name == "pos_embed_spatial" and value.ndim == 3:
            old, new = round(value.shape[1] ** 0.5), round(shape[1] ** 0.5)
            square = value.float().view(1, old, old, -1).permute(0, 3, 1, 2)  # [1, D, h, w]
            resized = F.interpolate(square, size=(new, new), mode="bilinear")
            return resized.flatten(2).transpose(1, 2).to(value.dtype).contiguous()
        return None


def _trunk(**sizes: Any) -> Hiera:
    """Return timm's Hiera with the strides and kernels of the video models, without initialised weights."""
    norm: Any = partial(nn.LayerNorm, eps=NORM_EPS)  # timm's annotation wants a class, its code calls it
    return Hiera(
        **sizes,
        num_classes=0,
        q_stride=POOL_STRIDE,
        mask_unit_size=MASK_UNIT,
        patch_kernel=PATCH_KERNEL,
        patch_stride=PATCH_STRIDE,
        patch_padding=PATCH_PADDING,
        norm_layer=norm,
        sep_pos_embed=True,
        weight_init="skip",
        fix_init=False,
    )


def _hiera_init(module: nn.Module) -> None:
    """Initialise as facebookresearch/hiera: Linear and convolution truncated normal, LayerNorm at 1, biases .02."""
    if isinstance(module, nn.Linear | nn.Conv3d):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
    if isinstance(module, nn.Linear | nn.LayerNorm):
        nn.init.constant_(module.bias, HIERA_BIAS)


_PIXELS = {"normalisation": "slowfast", "input": "rgb"}
PRESETS = {
    # For two CPU cores, under a million parameters: the shape of `hiera_b` at a width and depth for 8 x 64 x 64.
    "hiera_tiny": Preset(
        HieraEncoder,
        {"frames": 8, "size": 64, "q_pool": 3, "drop_path": 0.0, "init": "fan_in", **_PIXELS},
        {"embed_dim": 24, "num_heads": 1, "stages": (1, 1, 2, 1)},
    ),
    # facebookresearch/hiera `hiera_base_16x224`. SSVP-SLT pre-trains it with 128 frames and a drop_path of .2.
    "hiera_b": Preset(
        HieraEncoder,
        {"frames": 16, "size": 224, "q_pool": 3, "drop_path": 0.0, "init": "hiera", **_PIXELS},
        {"embed_dim": 96, "num_heads": 1, "stages": (2, 3, 16, 3)},
    ),
}
