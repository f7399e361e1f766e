"""The block and the fixed positions of the plain vision transformers and pose transformers; the block is timm's.

Shapes: B batch, N tokens, D width.
"""

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from islr.models.encoder import NORM_EPS


def transformer_block(
    dim: int, heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0, dropout: float = 0.0
) -> Block:
    """Pre-norm self-attention and MLP, `[B, N, D]` -> `[B, N, D]`; parameter names are those of ViT files.

    Args:
        dim: Token width.
        heads: Attention heads.
        mlp_ratio: Width of the MLP's hidden layer over `dim`.
        drop_path: Chance of skipping a branch for a whole sample.
        dropout: On the result of each branch.
    """
    norm: Any = partial(nn.LayerNorm, eps=NORM_EPS)  # timm's annotation wants a class, its code calls it
    block = Block(
        dim, heads, mlp_ratio=mlp_ratio, qkv_bias=True, proj_drop=dropout, drop_path=drop_path, norm_layer=norm
    )
    block.mlp.drop1 = nn.Identity()  # on the wide hidden layer it costs as much as a matrix product
    return block


def sincos_positions(count: int, dim: int) -> Tensor:
    """Return fixed positions `[count, dim]`: sine in even columns, cosine in odd ones (arXiv 1706.03762 section 3.5).

    VideoMAE numbers a clip's tokens through, time first: its table knows nothing of the three axes.
    """
    columns = torch.arange(dim)
    rates = 10000.0 ** (-(columns - columns % 2).double() / dim)
    angles = torch.arange(count, dtype=torch.float64)[:, None] * rates
    return torch.where(columns % 2 == 0, angles.sin(), angles.cos()).float()


def drop_path_rates(drop_path: float, depth: int) -> list[float]:
    """Return stochastic depth per block, linear from 0 to `drop_path` (arXiv 1603.09382 equation 4)."""
    return [drop_path * block / max(depth - 1, 1) for block in range(depth)]


def init_linear(module: nn.Module) -> None:
    """Initialise linear layers to keep the variance of activations, biases 0; for `Module.apply`.

    Truncated normal of 1 / sqrt(inputs); with the .02 of large transformers narrow ones start to learn much later.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
