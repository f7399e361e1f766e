"""The transformer block of the plain vision transformers and pose transformers: timm's, with our constants.

Shapes: B batch, N tokens, D width.
"""

from functools import partial
from typing import Any

from timm.models.vision_transformer import Block
from torch import nn

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
