"""Our ViT's tensors under the names of VideoMAE and of transformers: the inverse of what the layouts do."""

import re
from collections.abc import Mapping

from torch import Tensor

from islr.models.vit import ViTEncoder

TRANSFORMERS_PARTS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def videomae_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """VideoMAE's names; the queries' and the values' bias are parts of ours, sharing its memory."""
    named = {}
    for name, value in tensors.items():
        if name.endswith("attn.qkv.bias"):
            query, _, value_bias = value.chunk(3)
            start = name.removesuffix("qkv.bias")
            named |= {f"{start}q_bias": query, f"{start}v_bias": value_bias}
        else:
            named[re.sub(r"patch_embed\.(weight|bias)$", r"patch_embed.proj.\1", name)] = value
    return named


def transformers_names(tensors: Mapping[str, Tensor], biases: Mapping[str, str]) -> dict[str, Tensor]:
    """Names of `VideoMAEModel`.

    Args:
        tensors: An encoder's state dict.
        biases: How the query's and the value's bias are spelled, by `query` and `value`.
    """
    named = {}
    for name, value in tensors.items():
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)
        if not block:
            named[name.replace("patch_embed.", "embeddings.patch_embeddings.projection.")] = value
            continue
        index, part, kind = block.groups()
        layer = f"encoder.layer.{index}."
        if part != "attn.qkv":
            named[f"{layer}{TRANSFORMERS_PARTS[part]}.{kind}"] = value
            continue
        for projection, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
            if kind == "weight":
                named[f"{layer}attention.attention.{projection}.weight"] = rows
            elif projection in biases:
                named[f"{layer}attention.attention.{biases[projection]}"] = rows
    return named


def vit_from_config(config: Mapping[str, object]) -> ViTEncoder:
    """The small ViT that an oracle's `cfg` describes."""
    dim, depth, heads = config["enc"]  # type: ignore[misc]
    return ViTEncoder(
        frames=config["frames"],  # type: ignore[arg-type]
        size=config["img"],  # type: ignore[arg-type]
        patch=config["patch"],  # type: ignore[arg-type]
        dim=dim,
        depth=depth,
        heads=heads,
        mlp_ratio=config["mlp"],  # type: ignore[arg-type]
    )
