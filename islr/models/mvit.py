"""Multiscale vision transformers for video: MViTv2 and the form of it that MaskFeat pre-trains.

Li et al., "MViTv2" (arXiv 2112.01526), built on torchvision's `MViT` class, which computes what SlowFast computes.
Ours beside it: attention without the [queries x keys] position table, mask tokens, per-block tokens, pooling of patch
tokens, SlowFast's initialisation, and any input size that the strides allow.

Shapes: B batch, T H W frames and pixels, t h w a token grid, N = t * h * w tokens, D width, A heads, d head width.
Token sequences are `[B, 1 + N, D]`, the class token first.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.video.mvit import MSBlockConfig, MultiscaleAttention, MultiscaleBlock, MViT

from islr.errors import UserError
from islr.models.depthwise import depthwise_conv3d
from islr.models.encoder import INIT_STD, NORM_EPS, Encoder, InputSpec, interpolate_positions

Grid = tuple[int, int, int]  # tokens along time, height, width

# SlowFast's configs: DATA.MEAN, DATA.STD, the same for every channel.
PIXEL_MEAN, PIXEL_STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)
POOL_KERNEL = (3, 3, 3)  # MVIT.POOL_KVQ_KERNEL
SLOWFAST_BIAS = 0.02  # SlowFast starts all Linear and LayerNorm biases here, torchvision at 0
WIDTH_MULTIPLE = 8  # fused attention kernels want head widths that divide by it


class BlockOutput(NamedTuple):
    """Tokens after one block: `[B, 1 + N, D]`, the class token first, and the grid of the N patch tokens."""

    tokens: Tensor
    grid: Grid

    @property
    def patches(self) -> Tensor:
        """Patch tokens `[B, N, D]`."""
        return self.tokens[:, 1:]


class PooledAttention(MultiscaleAttention):
    """torchvision's pooled attention with the decomposed relative positions folded into the dot product.

    The score of query i and key j is q_i.k_j / sqrt(d) + q_i.Rt[t_i, t_j] + q_i.Rh[h_i, h_j] + q_i.Rw[w_i, w_j]
    (arXiv 2112.01526 equation 4). Appending the three q_i.R products to the query, and a one-hot code of (t_j, h_j, w_j)
    to the key, makes the same score one dot product: no [queries x keys] table is built outside the fused kernel.
    """

    def __init__(self, input_size: list[int], *args: Any, stride_q: list[int], stride_kv: list[int], **kwargs: Any):
        super().__init__(input_size, *args, stride_q=stride_q, stride_kv=stride_kv, **kwargs)
        self.stride_q, self.stride_kv = tuple(stride_q), tuple(stride_kv)
        # A 3-wide kernel padded by 1 gives ceil(n / stride) positions.
        self.query_grid: Grid = tuple(-(-n // s) for n, s in zip(input_size, stride_q, strict=True))  # type: ignore
        self.key_grid: Grid = tuple(-(-n // s) for n, s in zip(input_size, stride_kv, strict=True))  # type: ignore
        for axis, queries, keys in zip("thw", self.query_grid, self.key_grid, strict=True):
            self.register_buffer(f"offset_{axis}", _offsets(queries, keys), persistent=False)
        self.register_buffer("is_patch", _is_patch(self.query_grid), persistent=False)
        self.register_buffer("key_code", _one_hot_positions(self.key_grid), persistent=False)

    def forward(self, x: Tensor, thw: Grid) -> tuple[Tensor, Grid]:
        """Attend within `x` `[B, 1 + N, D]` on grid `thw`; returns the tokens and their pooled grid."""
        batch = x.shape[0]
        q, k, v = self._pooled_qkv(self.qkv(x), thw)  # [B, A, 1 + N', d] each
        queries = torch.cat([q / self.head_dim**0.5, self._position_scores(q)], dim=-1)
        keys = torch.cat([k, self.key_code.to(k.dtype).expand(*k.shape[:2], -1, -1)], dim=-1)
        surplus = -queries.shape[-1] % WIDTH_MULTIPLE
        if surplus:
            queries, keys = F.pad(queries, (0, surplus)), F.pad(keys, (0, surplus))
        values = F.pad(v, (0, queries.shape[-1] - self.head_dim))
        mixed = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)[..., : self.head_dim]
        # Residual pooling: the pooled query is added to the result, the class token's is not.
        mixed = torch.addcmul(mixed, q, self.is_patch.to(q.dtype))
        return self.project(mixed.transpose(1, 2).reshape(batch, -1, self.output_dim)), self.query_grid

    def _pooled_qkv(self, qkv: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
        """Pool queries, keys and values of all heads, `[B, 1 + N, 3 * A * d]`, without rearranging heads first."""
        batch, width = qkv.shape[0], self.output_dim
        pools = (self.pool_q, self.pool_k, self.pool_v)
        kernels = [pool.pool.weight.repeat(self.num_heads, 1, 1, 1, 1) for pool in pools]  # [A * d, 1, 3, 3, 3]
        class_tokens, patches = qkv.split((1, qkv.shape[1] - 1), dim=1)
        patches = patches.reshape(batch, *grid, 3 * width).permute(0, 4, 1, 2, 3)  # [B, 3 * A * d, t, h, w]
        if self.stride_q == self.stride_kv:
            pooled = depthwise_conv3d(patches, torch.cat(kernels), self.stride_q).split(width, dim=1)
        else:
            q_patches, kv_patches = patches.split((width, 2 * width), dim=1)
            q = depthwise_conv3d(q_patches, kernels[0], self.stride_q)
            kv = depthwise_conv3d(kv_patches, torch.cat(kernels[1:]), self.stride_kv)
            pooled = (q, *kv.split(width, dim=1))
        heads = (batch, -1, self.num_heads, self.head_dim)
        results = []
        for part, pool, class_token in zip(pooled, pools, class_tokens.split(width, dim=2), strict=True):
            tokens = torch.cat([class_token.reshape(heads), part.permute(0, 2, 3, 4, 1).reshape(heads)], dim=1)
            results.append(pool.norm_act(tokens).transpose(1, 2))  # [B, A, 1 + N', d]
        return results[0], results[1], results[2]

    def _position_scores(self, q: Tensor) -> Tensor:
        """Scores of every query with each key row of the three axes: `[B, A, 1 + N, t' + h' + w']`, class token 0."""
        patches = q[:, :, 1:].reshape(*q.shape[:2], *self.query_grid, self.head_dim)
        along_t = torch.einsum("bathwd,tkd->bathwk", patches, self.rel_pos_t[self.offset_t])
        along_h = torch.einsum("bathwd,hkd->bathwk", patches, self.rel_pos_h[self.offset_h])
        along_w = torch.einsum("bathwd,wkd->bathwk", patches, self.rel_pos_w[self.offset_w])
        scores = torch.cat([along_t, along_h, along_w], dim=-1).flatten(2, 4)
        return F.pad(scores, (0, 0, 1, 0))


def _offsets(queries: int, keys: int) -> Tensor:
    """Row of the relative position table for every (query, key) along one axis, int64 `[queries, keys]`."""
    query_step, key_step = max(keys / queries, 1.0), max(queries / keys, 1.0)
    distance = torch.arange(queries)[:, None] * query_step - (torch.arange(keys)[None] + 1 - keys) * key_step
    return distance.long()


def _is_patch(grid: Grid) -> Tensor:
    """1 for patch tokens, 0 for the class token in front: `[1 + N, 1]`."""
    return F.pad(torch.ones(grid[0] * grid[1] * grid[2], 1), (0, 0, 1, 0))


def _one_hot_positions(grid: Grid) -> Tensor:
    """One-hot codes of each token's t, h and w: `[1 + N, t + h + w]`, zeros for the class token."""
    places = torch.cartesian_prod(*(torch.arange(n) for n in grid))  # [N, 3]
    code = torch.cat([F.one_hot(places[:, axis], grid[axis]) for axis in range(3)], dim=1)
    return F.pad(code, (0, 0, 1, 0)).float()


class PooledBlock(MultiscaleBlock):
    """torchvision's block around `PooledAttention`."""

    def __init__(self, input_size: list[int], cnf: MSBlockConfig, proj_after_attn: bool, **kwargs: Any) -> None:
        super().__init__(input_size=input_size, cnf=cnf, proj_after_attn=proj_after_attn, **kwargs)
        self.attn = PooledAttention(
            input_size,
            cnf.input_channels,
            cnf.output_channels if proj_after_attn else cnf.input_channels,
            cnf.num_heads,
            kernel_q=cnf.kernel_q,
            kernel_kv=cnf.kernel_kv,
            stride_q=cnf.stride_q,
            stride_kv=cnf.stride_kv,
            residual_pool=True,
            residual_with_cls_embed=False,
            rel_pos_embed=True,
            norm_layer=kwargs["norm_layer"],
        )


class MViTEncoder(Encoder):
    """An MViTv2 encoder from its numbers; `mvit_tiny` and `mvit_s` are presets of it.

    Args:
        frames: Frames per clip.
        size: Height and width in pixels.
        depth: Blocks.
        embed_dim: Width of the patch embedding.
        num_heads: Heads of block 0.
        dim_mul: Block -> factor by which its width exceeds the previous block's.
        head_mul: Block -> the same for heads.
        q_stride: Block -> spatial stride of its query pooling; blocks not named keep the grid.
        kv_stride: Spatial stride of key and value pooling in block 0, divided by every query stride on the way
            ("adaptive", arXiv 2104.11227).
        patch_kernel: Kernel of the patch convolution (time, height, width).
        patch_stride: Its stride.
        patch_padding: Its padding.
        widen_in: Where width grows: in the attention of the block that `dim_mul` names (MViTv2's supervised form)
            or in the MLP of the block before it (MaskFeat's form).
        pool: What `forward` returns of the last block: the mean of the patch tokens, or the class token.
        drop_path: Stochastic depth of the last block; earlier blocks have proportionally less.
        init: `slowfast` (truncated normal, biases .02), or `torchvision` (biases 0, convolutions at PyTorch's default).

    Raises:
        UserError: The frame count or size does not fit the strides.
    """

    def __init__(
        self,
        *,
        frames: int,
        size: int,
        depth: int,
        embed_dim: int,
        num_heads: int = 1,
        dim_mul: Mapping[int, float],
        head_mul: Mapping[int, float],
        q_stride: Mapping[int, int],
        kv_stride: int,
        patch_kernel: Grid = (3, 7, 7),
        patch_stride: Grid = (2, 4, 4),
        patch_padding: Grid = (1, 3, 3),
        widen_in: Literal["attention", "mlp"] = "mlp",
        pool: Literal["mean", "class"] = "mean",
        drop_path: float = 0.0,
        init: Literal["slowfast", "torchvision"] = "slowfast",
    ) -> None:
        super().__init__()
        if pool not in ("mean", "class") or init not in ("slowfast", "torchvision"):
            raise UserError(f"pool is 'mean' or 'class' and init 'slowfast' or 'torchvision', not '{pool}', '{init}'")
        _check_multiple("frames", frames, patch_stride[0])
        spatial_stride = patch_stride[1]
        for stride in q_stride.values():
            spatial_stride *= stride
        _check_multiple("size", size, spatial_stride)
        blocks = _block_settings(depth, embed_dim, num_heads, dim_mul, head_mul, q_stride, kv_stride, widen_in)
        trunk = MViT(
            spatial_size=(size, size),
            temporal_size=frames,
            block_setting=blocks,
            residual_pool=True,
            residual_with_cls_embed=False,
            rel_pos_embed=True,
            proj_after_attn=widen_in == "attention",
            stochastic_depth_prob=drop_path,
            block=PooledBlock,
            norm_layer=partial(nn.LayerNorm, eps=NORM_EPS),
            patch_embed_kernel=patch_kernel,
            patch_embed_stride=patch_stride,
            patch_embed_padding=patch_padding,
        )
        # The trunk's final norm and class head stay behind: what is put on top belongs to the task.
        self.conv_proj = trunk.conv_proj
        self.pos_encoding = trunk.pos_encoding
        self.blocks = trunk.blocks
        self.pool = pool
        self.patch_grid: Grid = (frames // patch_stride[0], size // patch_stride[1], size // patch_stride[2])
        self.input_spec = InputSpec(frames, size, PIXEL_MEAN, PIXEL_STD, "video")
        self.layer_dims = [block.output_channels for block in blocks]
        self.dim = self.layer_dims[-1]
        if init == "slowfast":
            self.apply(_slowfast_init)

    @property
    def grids(self) -> list[Grid]:
        """Token grid after each block."""
        return [block.attn.query_grid for block in self.blocks]  # type: ignore[union-attr, misc]

    def forward(self, clip: Tensor) -> Tensor:
        """Encode normalised clips `[B, 3, T, H, W]` into `[B, dim]`."""
        last = self.forward_tokens(clip)[-1]
        return last.patches.mean(dim=1) if self.pool == "mean" else last.tokens[:, 0]

    def forward_layers(self, clip: Tensor) -> list[Tensor]:
        """Patch tokens after each block, `[B, N_l, D_l]`."""
        return [output.patches for output in self.forward_tokens(clip)]

    def forward_tokens(
        self, clip: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None
    ) -> list[BlockOutput]:
        """All tokens after each block, some patches hidden.

        Args:
            clip: Normalised clips `[B, 3, T, H, W]`.
            mask: bool `[B, t, h', w']`, true = hidden; enlarged to the patch grid by repetition. t is the patch grid's.
            mask_token: `[D_0]`, put in place of the hidden patches' embeddings (arXiv 2112.09133 section 3).
        """
        self.check_clip(clip)
        tokens = self.conv_proj(clip).flatten(2).transpose(1, 2)  # [B, N, D_0]
        if mask is not None:
            assert mask_token is not None
            hidden = resize_mask(mask, self.patch_grid).flatten(1)[..., None]  # [B, N, 1]
            tokens = torch.where(hidden, mask_token.to(tokens.dtype), tokens)
        tokens, grid = self.pos_encoding(tokens), self.patch_grid
        outputs = []
        for block in self.blocks:
            tokens, grid = block(tokens, grid)
            outputs.append(BlockOutput(tokens, grid))
        return outputs

    def layer_of(self, parameter_name: str) -> int:
        """0 for the patch embedding and the class token, i + 1 for block i."""
        if parameter_name.startswith("blocks."):
            return int(parameter_name.split(".")[1]) + 1
        assert parameter_name.startswith(("conv_proj.", "pos_encoding.")), parameter_name
        return 0

    def resize_parameter(self, name: str, value: Tensor, length: int) -> Tensor | None:
        """Relative position tables follow the token grid; SlowFast resizes them linearly when it loads."""
        is_table = name.rpartition(".")[2] in ("rel_pos_t", "rel_pos_h", "rel_pos_w") and value.ndim == 2
        return interpolate_positions(value, length) if is_table else None


def resize_mask(mask: Tensor, grid: Grid) -> Tensor:
    """Nearest resize of a bool mask `[B, t, h, w]` along height and width to `grid`; time must agree.

    Raises:
        UserError: The time axes differ, or a side of one is no multiple of the other's.
    """
    height, width = mask.shape[2:]
    if mask.shape[1] != grid[0] or any(max(a, b) % min(a, b) for a, b in ((height, grid[1]), (width, grid[2]))):
        raise UserError(f"a mask of {list(mask.shape[1:])} cells does not fit a token grid of {list(grid)}")
    return F.interpolate(mask.float(), size=grid[1:], mode="nearest") > 0.5


def _check_multiple(name: str, value: int, stride: int) -> None:
    if value < stride or value % stride:
        lower = max(value // stride, 1) * stride
        raise UserError(
            f"{name}={value} does not fit the strides: it must be a multiple of {stride}, such as {lower} or "
            f"{lower + stride}"
        )


def _block_settings(
    depth: int,
    embed_dim: int,
    num_heads: int,
    dim_mul: Mapping[int, float],
    head_mul: Mapping[int, float],
    q_stride: Mapping[int, int],
    kv_stride: int,
    widen_in: str,
) -> list[MSBlockConfig]:
    """One setting per block; JSON and YAML turn whole-number keys into text, hence the int()."""
    for name, given in (("dim_mul", dim_mul), ("head_mul", head_mul), ("q_stride", q_stride)):
        outside = [block for block in given if not 0 <= int(block) < depth]
        if outside:
            raise UserError(f"{name} names block {outside[0]}, the last block is {depth - 1}")
    if widen_in not in ("attention", "mlp"):
        raise UserError(f"widen_in is 'attention' or 'mlp', not '{widen_in}'")
    dims, heads = [embed_dim], [num_heads]
    for block in range(depth):
        dims.append(int(dims[-1] * {int(k): v for k, v in dim_mul.items()}.get(block, 1)))
        heads.append(int(heads[-1] * {int(k): v for k, v in head_mul.items()}.get(block, 1)))
    own_dims = dims[1:]  # width of block i once dim_mul[i] has acted
    settings = []
    for block in range(depth):
        stride = {int(k): v for k, v in q_stride.items()}.get(block, 1)
        kv_stride = max(kv_stride // stride, 1)
        if widen_in == "attention":
            width_in, width_out = dims[block], own_dims[block]
        else:
            width_in, width_out = own_dims[block], own_dims[min(block + 1, depth - 1)]
        settings.append(
            MSBlockConfig(
                num_heads=heads[block + 1],
                input_channels=width_in,
                output_channels=width_out,
                kernel_q=list(POOL_KERNEL),
                kernel_kv=list(POOL_KERNEL),
                stride_q=[1, stride, stride],
                stride_kv=[1, kv_stride, kv_stride],
            )
        )
    return settings


def _slowfast_init(module: nn.Module) -> None:
    """SlowFast's start: truncated normal for Linear and Conv3d, LayerNorm at 1, every bias .02."""
    if isinstance(module, nn.Linear | nn.Conv3d):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
    if isinstance(module, nn.Linear | nn.Conv3d | nn.LayerNorm) and module.bias is not None:
        nn.init.constant_(module.bias, SLOWFAST_BIAS)


def mvit_tiny(
    frames: int = 8,
    size: int = 64,
    last_stride: int = 2,
    pool: Literal["mean", "class"] = "mean",
    drop_path: float = 0.0,
    init: Literal["slowfast", "torchvision"] = "slowfast",
) -> MViTEncoder:
    """Under a million parameters, for two CPU cores: the shape of `mvit_s` at a width and depth for 8 x 64 x 64.

    Args:
        frames: A multiple of 2.
        size: A multiple of 16 * `last_stride`.
        last_stride: 1 for MaskFeat pre-training (tokens of 16 pixels at the end), 2 otherwise.
        pool: As in `MViTEncoder`.
        drop_path: As in `MViTEncoder`.
        init: As in `MViTEncoder`.
    """
    return MViTEncoder(
        frames=frames,
        size=size,
        depth=6,
        embed_dim=24,
        dim_mul={1: 2, 3: 2, 5: 2},
        head_mul={1: 2, 3: 2, 5: 2},
        q_stride={0: 2, 2: 2, 5: last_stride},
        kv_stride=8,
        pool=pool,
        drop_path=drop_path,
        init=init,
    )


def mvit_s(
    frames: int = 16,
    size: int = 224,
    last_stride: int = 2,
    widen_in: Literal["attention", "mlp"] = "mlp",
    pool: Literal["mean", "class"] = "mean",
    drop_path: float = 0.0,
    init: Literal["slowfast", "torchvision"] = "slowfast",
) -> MViTEncoder:
    """MViTv2-S, 16 x 4 (arXiv 2112.01526 table 1; SlowFast `k400_MVITv2_S_16x4_MaskFeat_PT`/`_FT`).

    Args:
        frames: A multiple of 2.
        size: A multiple of 16 * `last_stride`.
        last_stride: Query stride of block 14: 1 for MaskFeat pre-training, 2 otherwise.
        widen_in: `mlp` for MaskFeat's form, `attention` for the supervised MViTv2-S of SlowFast and torchvision.
        pool: As in `MViTEncoder`; the supervised form is trained on its class token.
        drop_path: As in `MViTEncoder`; .1 in MaskFeat's fine-tuning.
        init: As in `MViTEncoder`.
    """
    return MViTEncoder(
        frames=frames,
        size=size,
        depth=16,
        embed_dim=96,
        dim_mul={1: 2, 3: 2, 14: 2},
        head_mul={1: 2, 3: 2, 14: 2},
        q_stride={1: 2, 3: 2, 14: last_stride},
        kv_stride=8,
        widen_in=widen_in,
        pool=pool,
        drop_path=drop_path,
        init=init,
    )
