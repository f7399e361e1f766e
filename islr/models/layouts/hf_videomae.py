"""VideoMAE's ViT as Hugging Face's transformers writes it."""

import re

import torch

from islr.models.layouts.layout import Layout, State


def join_projections(state: State) -> State:
    """One projection for queries, keys and values from three, under the names of the same attention.

    The query's and the value's bias have been written as `q_bias` and as `query.bias`; a key has none.
    """
    joined = dict(state)
    for name in state:
        attention = re.fullmatch(r"(encoder\.layer\.\d+\.attention\.attention\.)query\.weight", name)
        if not attention:
            continue
        start = attention[1]
        parts = [joined.pop(f"{start}{part}.weight", None) for part in ("query", "key", "value")]
        query, value = (
            joined.pop(f"{start}{short}_bias", joined.pop(f"{start}{long}.bias", None))
            for short, long in (("q", "query"), ("v", "value"))
        )
        if all(part is not None for part in parts):
            joined[f"{start}qkv.weight"] = torch.cat([part for part in parts if part is not None])
        if query is not None and value is not None:
            joined[f"{start}qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
    return joined


HF_VIDEOMAE = Layout(
    name="hf-videomae",
    source="transformers VideoMAEModel, VideoMAEForPreTraining, VideoMAEForVideoClassification",
    families=("vit_*",),
    marks=(
        r"embeddings\.patch_embeddings\.projection\.weight",
        r"encoder\.layer\.0\.attention\.attention\.query\.weight",
    ),
    rules=(
        (r"embeddings\.patch_embeddings\.projection\.(weight|bias)", r"patch_embed.\1"),
        (r"encoder\.layer\.(\d+)\.layernorm_before\.(weight|bias)", r"blocks.\1.norm1.\2"),
        (r"encoder\.layer\.(\d+)\.layernorm_after\.(weight|bias)", r"blocks.\1.norm2.\2"),
        (r"encoder\.layer\.(\d+)\.attention\.attention\.qkv\.(weight|bias)", r"blocks.\1.attn.qkv.\2"),
        (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
        (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(weight|bias)", r"blocks.\1.mlp.fc1.\2"),
        (r"encoder\.layer\.(\d+)\.output\.dense\.(weight|bias)", r"blocks.\1.mlp.fc2.\2"),
    ),
    left=(
        r"decoder\..+",
        r"encoder_to_decoder\.weight",
        r"mask_token",
        r"(layernorm|fc_norm|classifier)\.(weight|bias)",
    ),
    prefixes=("videomae.",),
    prepare=join_projections,
)
