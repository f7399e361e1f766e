"""The blocks of an MViTv2: torchvision's, with an attention that builds no [queries x keys] position table.

Shapes: B batch, t h w a token grid, N = t * h * w tokens, D width, A heads, d head width. Token sequences are
`[B, 1 + N, D]`, the class token first.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.video.mvit import MSBlockConfig, MultiscaleAttention, MultiscaleBlock

from islr.models.encoder import interpolate_positions
from islr.models.mvit.depthwise import depthwise_conv3d
from islr.models.mvit.recompute import gelu_linear, norm_linear
from islr.models.tokens import Grid

WIDTH_MULTIPLE = 8  # fused attention kernels need head widths that are multiples of it


class PooledAttention(MultiscaleAttention):
    """torchvision's pooled attention with the decomposed relative positions folded into the dot product.

    The score of query i and key j is q_i.k_j / sqrt(d) + q_i.Rt[t_i, t_j] + q_i.Rh[h_i, h_j] + q_i.Rw[w_i,
    w_j] (arXiv 2112.01526 equation 4). Appending the three q_i.R products to the query, and a one-hot code of
    (t_j, h_j, w_j) to the key, makes the same score one dot product: no [queries x keys] table is built
    outside the fused kernel.
    """

    def __init__(self, input_size: list[int], *args: Any, stride_q: list[int], stride_kv: list[int], **kwargs: Any):
        super().__init__(input_size, *args, stride_q=stride_q, stride_kv=stride_kv, **kwargs)
        self.stride_q: Grid = (stride_q[0], stride_q[1], stride_q[2])
        self.stride_kv: Grid = (stride_kv[0], stride_kv[1], stride_kv[2])
        self.fit((input_size[0], input_size[1], input_size[2]))

    def fit(self, grid: Grid) -> Grid:
        """Prepare for tokens on `grid`; returns the grid of the result.

        The lengths of the position tables stay those of `input_size`, to which the reference rounds down where a
        stride does not divide a grid; the grids themselves round up.
        """
        self.query_grid, self.key_grid = _pooled(grid, self.stride_q), _pooled(grid, self.stride_kv)
        for axis, queries, keys in zip("thw", self.query_grid, self.key_grid, strict=True):
            self.register_buffer(f"offset_{axis}", _offsets(queries, keys), persistent=False)
        self.register_buffer("is_patch", _is_patch(self.query_grid), persistent=False)
        self.register_buffer("key_code", _one_hot_positions(self.key_grid), persistent=False)
        return self.query_grid

    def forward(self, x: Tensor, thw: Grid) -> tuple[Tensor, Grid]:
        """Attend within `x` `[B, 1 + N, D]` on grid `thw`; returns the tokens and their pooled grid."""
        return self.attend(self.qkv(x), thw)

    def attend(self, qkv: Tensor, thw: Grid) -> tuple[Tensor, Grid]:
        """As `forward`, from queries, keys and values `[B, 1 + N, 3 * A * d]`."""
        batch = qkv.shape[0]
        q, k, v = self._pooled_qkv(qkv, thw)  # [B, A, 1 + N', d] each
        # The scale is the keys', so that the folded queries hold the queries as they are.
        queries = _FoldedQueries.apply(q, WIDTH_MULTIPLE, *self._positions())
        code = self.key_code.to(k.dtype).expand(*k.shape[:2], -1, -1)
        keys = torch.cat([k / self.head_dim**0.5, code], dim=-1)
        keys = F.pad(keys, (0, queries.shape[-1] - keys.shape[-1]))
        values = F.pad(v, (0, queries.shape[-1] - self.head_dim))
        mixed = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)[..., : self.head_dim]
        # Residual pooling: the pooled query is added to the result, the class token's is not.
        mixed = torch.addcmul(mixed, q, self.is_patch.to(q.dtype))
        return self.project(mixed.transpose(1, 2).reshape(batch, -1, self.output_dim)), self.query_grid

    def _pooled_qkv(self, qkv: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
        """Pool queries, keys and values `[B, 1 + N, 3 * A * d]` of all heads at once, where they lie."""
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

    def _positions(self) -> list[Tensor]:
        """Return the position vectors between each query and key along each axis, `[queries, keys, d]`."""
        found = []
        for axis, queries, keys in zip("thw", self.query_grid, self.key_grid, strict=True):
            table, distances = getattr(self, f"rel_pos_{axis}"), 2 * max(queries, keys) - 1
            if len(table) != distances:
                table = interpolate_positions(table, distances)
            found.append(table[getattr(self, f"offset_{axis}")])
        return found


class _FoldedQueries(torch.autograd.Function):
    """Each query followed by its position scores along t, h and w, and zeros up to a multiple of the width.

    For the backward pass it keeps its result, which the attention keeps anyway; PyTorch would keep the queries once
    more for each axis, in three orders.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, multiple: int, in_t: Tensor, in_h: Tensor, in_w: Tensor) -> Tensor:
        """q `[B, A, 1 + N, d]`, and `[queries, keys, d]` per axis -> `[B, A, 1 + N, d + t' + h' + w' + ...]`."""
        tables = {"t": in_t, "h": in_h, "w": in_w}
        device = q.device.type
        half = device != "meta" and torch.is_autocast_enabled(device)  # the meta device has no autocast
        q = q.to(torch.get_autocast_dtype(device)) if half else q
        width = q.shape[-1]
        scored = width + sum(table.shape[1] for table in tables.values())
        folded = q.new_zeros(*q.shape[:3], scored + -scored % multiple)
        folded[..., :width] = q
        patches, end = _patches(q, tables), width
        for axis, table in tables.items():
            scores = torch.einsum(f"bathwd,{axis}kd->bathwk", patches, table.to(q.dtype))
            folded[:, :, 1:, end : end + table.shape[1]] = scores.flatten(2, 4)
            end += table.shape[1]
        ctx.save_for_backward(folded, in_t, in_h, in_w)
        return folded

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        folded, *tables = ctx.saved_tensors
        named = dict(zip("thw", tables, strict=True))
        end = tables[0].shape[2]
        patches = _patches(folded[..., :end], named)
        q_gradient = grad[..., :end].clone()
        table_gradients = []
        for axis, table in named.items():
            part = _patches(grad[..., end : end + table.shape[1]], named)
            through = torch.einsum(f"bathwk,{axis}kd->bathwd", part, table.to(part.dtype))
            q_gradient[:, :, 1:] += through.flatten(2, 4)
            table_gradients.append(torch.einsum(f"bathwk,bathwd->{axis}kd", part, patches).to(table.dtype))
            end += table.shape[1]
        return q_gradient, None, *table_gradients


def _patches(tokens: Tensor, tables: Mapping[str, Tensor]) -> Tensor:
    """`[B, A, 1 + N, D]` without the class token, on the grid of the tables' queries: `[B, A, t, h, w, D]`."""
    return tokens[:, :, 1:].unflatten(2, [len(table) for table in tables.values()])


def _pooled(sizes: Grid, strides: Grid) -> Grid:
    """Return the grid a pooling leaves: a 3-wide kernel padded by 1 gives ceil(n / stride) positions."""
    t, h, w = (-(-size // stride) for size, stride in zip(sizes, strides, strict=True))
    return t, h, w


def _offsets(queries: int, keys: int) -> Tensor:
    """Return the row of the relative position table for every (query, key) along one axis, int64 `[queries, keys]`."""
    query_step, key_step = max(keys / queries, 1.0), max(queries / keys, 1.0)
    distance = torch.arange(queries)[:, None] * query_step - (torch.arange(keys)[None] + 1 - keys) * key_step
    return distance.long()


def _is_patch(grid: Grid) -> Tensor:
    """Return 1 for patch tokens, 0 for the class token in front: `[1 + N, 1]`."""
    return F.pad(torch.ones(grid[0] * grid[1] * grid[2], 1), (0, 0, 1, 0))


def _one_hot_positions(grid: Grid) -> Tensor:
    """Return one-hot codes of each token's t, h and w: `[1 + N, t + h + w]`, zeros for the class token."""
    places = torch.cartesian_prod(*(torch.arange(n) for n in grid))  # [N, 3]
    code = torch.cat([F.one_hot(places[:, axis], grid[axis]) for axis in range(3)], dim=1)
    return F.pad(code, (0, 0, 1, 0)).float()


class PooledBlock(MultiscaleBlock):
    """torchvision's block around `PooledAttention`, keeping less for the backward pass."""

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

    def forward(self, x: Tensor, thw: Grid) -> tuple[Tensor, Grid]:
        """`[B, 1 + N, D]` on grid `thw` -> tokens and their grid; the maths of `MultiscaleBlock.forward`."""
        mixed, grid = self.attn.attend(norm_linear(x, self.norm1, self.attn.qkv), thw)
        widens_here = self.project is not None and self.proj_after_attn
        skip = norm_linear(x, self.norm1, self.project) if widens_here else x
        if self.pool_skip is not None:
            skip = self.pool_skip(skip, thw)[0]
        x = skip + self.stochastic_depth(mixed)
        widen, _, _, narrow, _ = self.mlp
        hidden = gelu_linear(norm_linear(x, self.norm2, widen), narrow)
        widens_after = self.project is not None and not self.proj_after_attn
        skip = norm_linear(x, self.norm2, self.project) if widens_after else x
        return skip + self.stochastic_depth(hidden), grid
