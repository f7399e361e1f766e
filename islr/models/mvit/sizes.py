"""The sizes of an MViTv2, and the settings of its blocks that follow from them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torchvision.models.video.mvit import MSBlockConfig

from islr.errors import UserError

POOL_KERNEL = (3, 3, 3)  # SlowFast's MVIT.POOL_KVQ_KERNEL

WidenIn = Literal["attention", "mlp"]


@dataclass(frozen=True)
class MViTSizes:
    """Depth, widths and strides of an MViTv2.

    Attributes:
        depth: Blocks, two or more.
        embed_dim: Width of the patch embedding.
        dim_mul: Block -> factor by which its width exceeds the previous block's.
        head_mul: Block -> the same for heads.
        q_stride: Block -> spatial stride of its query pooling; blocks not named keep the grid.
        kv_stride: Spatial stride of key and value pooling in block 0, divided by every query stride on the way
            ("adaptive", arXiv 2104.11227).
        num_heads: Heads of block 0.

    Raises:
        UserError: Too few blocks, or a block is named that is not there.
    """

    depth: int
    embed_dim: int
    dim_mul: Mapping[int, float]
    head_mul: Mapping[int, float]
    q_stride: Mapping[int, int]
    kv_stride: int
    num_heads: int = 1

    def __post_init__(self) -> None:
        if self.depth < 2:
            raise UserError(f"depth={self.depth}: an MViT has at least two blocks")
        for name in ("dim_mul", "head_mul", "q_stride"):
            outside = [block for block in getattr(self, name) if not 0 <= block < self.depth]
            if outside:
                raise UserError(f"{name} names block {outside[0]}, the last block is {self.depth - 1}")

    @property
    def total_stride(self) -> int:
        """Return patches per side of a last token."""
        return math.prod(self.q_stride.values())

    def with_last_stride(self, stride: int) -> "MViTSizes":
        """Change the stride of the last query pooling."""
        return replace(self, q_stride={**self.q_stride, max(self.q_stride): stride})


def block_settings(sizes: MViTSizes, widen_in: WidenIn) -> list[MSBlockConfig]:
    """Return torchvision's setting of each block.

    Args:
        sizes: Of the whole network.
        widen_in: Where width grows, as in `MViTEncoder`.

    Raises:
        UserError: An unknown `widen_in`.
    """
    if widen_in not in ("attention", "mlp"):
        raise UserError(f"widen_in is 'attention' or 'mlp', not '{widen_in}'")
    dims, heads = [sizes.embed_dim], [sizes.num_heads]
    for block in range(sizes.depth):
        dims.append(int(dims[-1] * sizes.dim_mul.get(block, 1)))
        heads.append(int(heads[-1] * sizes.head_mul.get(block, 1)))
    own_dims = dims[1:]  # width of block i once dim_mul[i] has acted
    settings, kv_stride = [], sizes.kv_stride
    for block in range(sizes.depth):
        stride = sizes.q_stride.get(block, 1)
        kv_stride = max(kv_stride // stride, 1)
        if widen_in == "attention":
            width_in, width_out = dims[block], own_dims[block]
        else:
            width_in, width_out = own_dims[block], own_dims[min(block + 1, sizes.depth - 1)]
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
