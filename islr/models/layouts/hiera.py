"""Hiera's checkpoints: facebookresearch/hiera (`.pth`), and timm's, whose models are of images.

timm's own filter (`timm.models.hiera.checkpoint_filter_fn`) says how the two name the same tensors.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from islr.models.hiera import PATCH_KERNEL
from islr.models.layouts.layout import Layout, State

_BLOCKS = (
    (r"patch_embed\.proj\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"blocks\.(\d+)\.(norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2|proj)\.(weight|bias)", r"blocks.\1.\2.\3"),
)
_HEADS = (
    r"(encoder_)?norm\.(weight|bias)",
    r"head\.(projection|fc|norm)\.(weight|bias)",
)
# The other half of a masked autoencoder, as hiera_mae.py names it.
_DECODER = (
    r"multi_scale_fusion_heads\.\d+\.(weight|bias)",
    r"mask_token",
    r"decoder_(pos_embed|((embed|norm|pred)\.(weight|bias)))",
    r"decoder_blocks\..+",
)


def _inflate(state: State) -> State:
    """Inflate image weights so that a still clip has the image's result.

    The patch kernel is put at its middle moment and is zero beside; the positions are those of space.
    """
    inflated = dict(state)
    kernel = inflated.get("patch_embed.proj.weight")
    if kernel is not None and kernel.ndim == 4:
        wide = torch.zeros(*kernel.shape[:2], PATCH_KERNEL[0], *kernel.shape[2:], dtype=kernel.dtype)
        wide[:, :, PATCH_KERNEL[0] // 2] = kernel
        inflated["patch_embed.proj.weight"] = wide
    return inflated


def _of_images(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"normalisation": "imagenet"}


HIERA = Layout(
    name="hiera",
    source="facebookresearch/hiera video models: hiera_*_16x224 and mae_hiera_*_16x224",
    families=("hiera_*",),
    marks=(r"pos_embed_spatial", r"pos_embed_temporal", r"blocks\.0\.attn\.qkv\.weight"),
    rules=((r"(pos_embed_spatial|pos_embed_temporal)", r"\1"), *_BLOCKS),
    left=(*_HEADS, *_DECODER),
    entries=("model_state",),
)

HIERA_IMAGE = Layout(
    name="hiera-image",
    source="image Hiera of timm (hiera_*_224) and facebookresearch/hiera; the patch kernel is inflated",
    families=("hiera_*",),
    marks=(r"pos_embed", r"blocks\.0\.attn\.qkv\.weight"),
    rules=((r"pos_embed", r"pos_embed_spatial"), *_BLOCKS),
    left=(*_HEADS, *_DECODER),
    fresh=(r"pos_embed_temporal",),
    entries=("model_state",),
    prepare=_inflate,
    arguments=_of_images,
)
