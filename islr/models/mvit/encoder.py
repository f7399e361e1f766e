"""Multiscale vision transformers for video: MViTv2 and the form of it that MaskFeat pre-trains.

Li et al., "MViTv2" (arXiv 2112.01526), built on torchvision's `MViT` class, which computes what SlowFast
computes. Ours beside it: attention without the [queries x keys] position table, mask tokens, per-block
tokens, pooling of patch tokens, SlowFast's initialisation, and any input size that the strides allow.

Shapes: B batch, T H W frames and pixels, t h w a token grid, N = t * h * w tokens, D width, A heads, d head
width. Token sequences are `[B, 1 + N, D]`, the class token first.
"""

from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torchvision.models.video.mvit import MSBlockConfig, MViT

from islr.data.views.input_spec import InputSpec
from islr.errors import UserError
from islr.models.encoder import (
    INIT_STD,
    NORM_EPS,
    NORMALISATIONS,
    Encoder,
    Normalisation,
    interpolate_positions,
)
from islr.models.front_end import Input, input_channels
from islr.models.mvit.blocks import PooledBlock
from islr.models.mvit.sizes import MViTSizes, WidenIn, block_settings
from islr.models.tokens import Grid, hide_tokens

PATCH_KERNEL: Grid = (3, 7, 7)  # of the patch convolution, along time, height and width
PATCH_STRIDE: Grid = (2, 4, 4)
PATCH_PADDING: Grid = (1, 3, 3)
SLOWFAST_BIAS = 0.02  # SlowFast starts all Linear and LayerNorm biases here, torchvision at 0

Pool = Literal["mean", "class"]
Init = Literal["slowfast", "torchvision", "fan_in"]


class BlockOutput(NamedTuple):
    """Tokens after one block: `[B, 1 + N, D]`, the class token first, and the grid of the N patch tokens."""

    tokens: Tensor
    grid: Grid

    @property
    def patches(self) -> Tensor:
        """Return patch tokens `[B, N, D]`."""
        return self.tokens[:, 1:]


class MViTEncoder(Encoder):
    """An MViTv2 encoder of given sizes; `islr.models.mvit.presets` names them.

    Args:
        sizes: Depth, widths and strides.
        frames: Frames per clip.
        size: Height and width in pixels. Where a query stride does not divide the grid, the last tokens of a row
            or column cover less, as in the published L (312 pixels are 78, 39, 20 and 10 tokens).
        widen_in: Where width grows: in the attention of the block that `dim_mul` names (MViTv2's supervised
            form) or in the MLP of the block before it (MaskFeat's form).
        pool: What `forward` returns of the last block: the mean of the patch tokens, or the class token.
        drop_path: Stochastic depth of the last block; earlier blocks have proportionally less.
        init: `slowfast` (truncated normal of .02, biases .02); `torchvision` (the same with biases 0 and
            convolutions at PyTorch's default); or `fan_in` (truncated normal of 1 / sqrt(inputs), biases 0),
            with which narrow encoders start to learn many times sooner.
        normalisation: Mean and std of the pixels it takes.
        input: `rgb`, or `rgb+change` (`islr/models/front_end.py`).

    Raises:
        UserError: The frame count or size does not fit the strides, or a name is unknown.
    """

    source = "MViTv2 (arXiv 2112.01526), MaskFeat's form (arXiv 2112.09133); code: facebookresearch/SlowFast"

    def __init__(
        self,
        sizes: MViTSizes,
        *,
        frames: int,
        size: int,
        widen_in: WidenIn = "mlp",
        pool: Pool = "mean",
        drop_path: float = 0.0,
        init: Init = "slowfast",
        normalisation: Normalisation = "slowfast",
        input: Input = "rgb",
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("pool", pool, get_args(Pool)),
            ("init", init, get_args(Init)),
            ("normalisation", normalisation, get_args(Normalisation)),
        ):
            if value not in known:
                raise UserError(f"{name}='{value}' is unknown; it is one of {', '.join(known)}")
        _check_multiple("frames", frames, PATCH_STRIDE[0])
        _check_multiple("size", size, PATCH_STRIDE[1], PATCH_STRIDE[1] * sizes.total_stride)
        self.block_settings = block_settings(sizes, widen_in)
        trunk = _trunk(frames, size, self.block_settings, widen_in, drop_path, input_channels(input))
        # The trunk's final norm and class head are dropped: the task adds its own.
        self.conv_proj, self.pos_encoding, self.blocks = trunk.conv_proj, trunk.pos_encoding, trunk.blocks
        self.pool, self.input = pool, input
        self.patch_grid: Grid = (frames // PATCH_STRIDE[0], size // PATCH_STRIDE[1], size // PATCH_STRIDE[2])
        grid = self.patch_grid
        for block in self.blocks:
            grid = block.attn.fit(grid)
        self.input_spec = InputSpec(frames, size, *NORMALISATIONS[normalisation], "video")
        self.layer_dims = [block.output_channels for block in self.block_settings]
        self.dim = self.layer_dims[-1]
        if init != "torchvision":
            self.apply(_slowfast_init if init == "slowfast" else _fan_in_init)

    @property
    def grids(self) -> list[Grid]:
        """Token grid after each block."""
        return [block.attn.query_grid for block in self.blocks]

    def forward(self, clip: Tensor) -> Tensor:
        """Encode normalised clips `[B, 3, T, H, W]` into `[B, dim]`."""
        last = self.forward_tokens(clip)[-1]
        return last.patches.mean(dim=1) if self.pool == "mean" else last.tokens[:, 0]

    def forward_layers(self, clip: Tensor) -> list[Tensor]:
        """Return patch tokens after each block, `[B, N_l, D_l]`."""
        return [output.patches for output in self.forward_tokens(clip)]

    def forward_tokens(
        self, clip: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None
    ) -> list[BlockOutput]:
        """Return all tokens after each block, some patches hidden.

        Args:
            clip: Normalised clips `[B, 3, T, H, W]`.
            mask: bool `[B, t, h', w']`, true = hidden; enlarged to the patch grid by repetition. t is the
                patch grid's.
            mask_token: `[D_0]`, put in place of the hidden patches' embeddings (arXiv 2112.09133 section 3).
        """
        self.check_clip(clip)
        tokens = self.conv_proj(self.front_end(clip, mask)).permute(0, 2, 3, 4, 1)  # [B, t, h, w, D_0]
        if mask is not None:
            assert mask_token is not None
            tokens = hide_tokens(tokens, mask, mask_token)
        tokens, grid = self.pos_encoding(tokens.flatten(1, 3)), self.patch_grid  # [B, 1 + N, D_0]
        outputs = []
        for block in self.blocks:
            tokens, grid = self.run_block(block, tokens, grid)
            outputs.append(BlockOutput(tokens, grid))
        return outputs

    def layer_of(self, parameter_name: str) -> int:
        """Return 0 for the patch embedding, the positions and the class token, i + 1 for block i."""
        if parameter_name.startswith("blocks."):
            return int(parameter_name.split(".")[1]) + 1
        assert parameter_name.startswith(("conv_proj.", "pos_encoding.")), parameter_name
        return 0

    def resize_parameter(self, name: str, value: Tensor, shape: torch.Size) -> Tensor | None:
        """Tables of relative positions follow the token grid, linearly, as SlowFast loads them."""
        if value.ndim == 2 and name.rpartition(".")[2] in ("rel_pos_t", "rel_pos_h", "rel_pos_w"):
            return interpolate_positions(value, shape[0])
        return None


def _trunk(
    frames: int, size: int, settings: list[MSBlockConfig], widen_in: WidenIn, drop_path: float, channels: int
) -> MViT:
    trunk = MViT(
        spatial_size=(size, size),
        temporal_size=frames,
        block_setting=settings,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=widen_in == "attention",
        stochastic_depth_prob=drop_path,
        block=PooledBlock,
        norm_layer=partial(nn.LayerNorm, eps=NORM_EPS),
        patch_embed_kernel=PATCH_KERNEL,
        patch_embed_stride=PATCH_STRIDE,
        patch_embed_padding=PATCH_PADDING,
    )
    if channels != trunk.conv_proj.in_channels:  # torchvision's class has no argument for it
        width = trunk.conv_proj.out_channels
        trunk.conv_proj = nn.Conv3d(channels, width, PATCH_KERNEL, PATCH_STRIDE, PATCH_PADDING)
    return trunk


def _check_multiple(name: str, value: int, stride: int, least: int = 0) -> None:
    least = max(least, stride)
    if value < least or value % stride:
        lower = max(value // stride * stride, least)
        raise UserError(
            f"{name}={value} does not fit the strides: it must be a multiple of {stride} from {least} on, such as "
            f"{lower} or {lower + stride}"
        )


def _slowfast_init(module: nn.Module) -> None:
    """Initialise as SlowFast: truncated normal for Linear and Conv3d, LayerNorm at 1, every bias .02."""
    if isinstance(module, nn.Linear | nn.Conv3d):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
    if isinstance(module, nn.Linear | nn.Conv3d | nn.LayerNorm) and module.bias is not None:
        nn.init.constant_(module.bias, SLOWFAST_BIAS)


def _fan_in_init(module: nn.Module) -> None:
    """Initialise to keep activation variance: truncated normal of 1 / sqrt(inputs), LayerNorm at 1, biases 0."""
    if isinstance(module, nn.Linear | nn.Conv3d):
        nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
    if isinstance(module, nn.Linear | nn.Conv3d | nn.LayerNorm) and module.bias is not None:
        nn.init.zeros_(module.bias)
