"""Multiscale vision transformers for video: MViTv2 and the form of it that MaskFeat pre-trains.

Li et al., "MViTv2" (arXiv 2112.01526), built on torchvision's `MViT` class, which computes what SlowFast
computes. Ours beside it: attention without the [queries x keys] position table, mask tokens, per-block
tokens, pooling of patch tokens, SlowFast's initialisation, and any input size that the strides allow.

Shapes: B batch, T H W frames and pixels, t h w a token grid, N = t * h * w tokens, D width, A heads, d head
width. Token sequences are `[B, 1 + N, D]`, the class token first.
"""

import math
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torchvision.models.video.mvit import MSBlockConfig, MViT

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
from islr.models.mvit.blocks import PooledBlock
from islr.models.mvit.sizes import MViTSizes, WidenIn, block_settings
from islr.models.tokens import Grid, resize_mask

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
        positions: Add learned absolute positions, separate in space and time (MViTv1's `SEP_POS_EMBED`), to
            the patch embeddings. Where a hand is distinguishes signs, and the mean of the tokens forgets it.
        change_channels: Share of the patch embedding whose temporal mean is subtracted: at each place, over the
            clip's visible frames. A fixed camera's background and the signer's clothes vanish there and remain in
            the other channels.
        normalisation: Mean and std of the pixels it takes.

    Raises:
        UserError: The frame count or size does not fit the strides, or a name or share is impossible.
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
        positions: bool = False,
        change_channels: float = 0.0,
        normalisation: Normalisation = "slowfast",
    ) -> None:
        super().__init__()
        if not 0 <= change_channels <= 1:
            raise UserError(f"change_channels={change_channels} is a share, from 0 to 1")
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
        trunk = _trunk(frames, size, self.block_settings, widen_in, drop_path)
        # The trunk's final norm and class head are dropped: the task adds its own.
        self.conv_proj, self.pos_encoding, self.blocks = trunk.conv_proj, trunk.pos_encoding, trunk.blocks
        self.pool = pool
        self.patch_grid: Grid = (frames // PATCH_STRIDE[0], size // PATCH_STRIDE[1], size // PATCH_STRIDE[2])
        grid = self.patch_grid
        for block in self.blocks:
            grid = block.attn.fit(grid)
        self.input_spec = InputSpec(frames, size, *NORMALISATIONS[normalisation], "video")
        self.layer_dims = [block.output_channels for block in self.block_settings]
        self.dim = self.layer_dims[-1]
        if init != "torchvision":
            self.apply(_slowfast_init if init == "slowfast" else _fan_in_init)
        self.change_channels = round(sizes.embed_dim * change_channels)
        self.pos_space: nn.Parameter | None = None
        self.pos_time: nn.Parameter | None = None
        if positions:
            std = FAN_IN_POSITION_STD if init == "fan_in" else INIT_STD
            times, rows, columns = self.patch_grid
            self.pos_space = nn.Parameter(torch.randn(rows * columns, sizes.embed_dim) * std)
            self.pos_time = nn.Parameter(torch.randn(times, sizes.embed_dim) * std)

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
        tokens = self.conv_proj(clip).flatten(3).permute(0, 2, 3, 1)  # [B, t, h * w, D_0]
        hidden = None if mask is None else resize_mask(mask, self.patch_grid).flatten(2)[..., None]
        if self.change_channels:
            tokens = _subtract_temporal_mean(tokens, hidden, self.change_channels)
        if hidden is not None:
            assert mask_token is not None
            tokens = torch.where(hidden, mask_token.to(tokens.dtype), tokens)
        if self.pos_space is not None and self.pos_time is not None:
            tokens = tokens + self.pos_time[:, None] + self.pos_space
        tokens, grid = self.pos_encoding(tokens.flatten(1, 2)), self.patch_grid  # [B, 1 + N, D_0]
        outputs = []
        for block in self.blocks:
            tokens, grid = self.run_block(block, tokens, grid)
            outputs.append(BlockOutput(tokens, grid))
        return outputs

    def layer_of(self, parameter_name: str) -> int:
        """Return 0 for the patch embedding, the positions and the class token, i + 1 for block i."""
        if parameter_name.startswith("blocks."):
            return int(parameter_name.split(".")[1]) + 1
        assert parameter_name.startswith(("conv_proj.", "pos_")), parameter_name
        return 0

    def resize_parameter(self, name: str, value: Tensor, shape: torch.Size) -> Tensor | None:
        """Position tables follow the token grid: linear along one axis (as SlowFast loads), bilinear in space."""
        table = name.rpartition(".")[2]
        if value.ndim == 2 and table in ("rel_pos_t", "rel_pos_h", "rel_pos_w", "pos_time"):
            return interpolate_positions(value, shape[0])
        if value.ndim == 2 and table == "pos_space":
            old, new = math.isqrt(len(value)), math.isqrt(shape[0])
            tall = interpolate_positions(value.reshape(old, -1), new).view(new, old, -1)  # [new, old, D]
            wide = interpolate_positions(tall.transpose(0, 1).flatten(1), new).view(new, new, -1)  # [w, h, D]
            return wide.transpose(0, 1).flatten(0, 1)
        return None


def _trunk(frames: int, size: int, settings: list[MSBlockConfig], widen_in: WidenIn, drop_path: float) -> MViT:
    return MViT(
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


def _subtract_temporal_mean(tokens: Tensor, hidden: Tensor | None, channels: int) -> Tensor:
    """Subtract the mean over visible frames from the first `channels` of `[B, t, h * w, D]`.

    Args:
        tokens: Patch embeddings.
        hidden: bool `[B, t, h * w, 1]`; what is hidden must not enter the mean that visible tokens carry.
        channels: Of D, from which the mean is subtracted.
    """
    change, rest = tokens.split((channels, tokens.shape[-1] - channels), dim=-1)
    if hidden is None:
        mean = change.mean(dim=1, keepdim=True)
    else:
        visible = hidden.logical_not().to(tokens.dtype)
        mean = (change * visible).sum(dim=1, keepdim=True) / visible.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.cat([change - mean, rest], dim=-1)


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
