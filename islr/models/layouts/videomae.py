"""VideoMAE's ViT (MCG-NJU/VideoMAE and OpenGVLab/VideoMAEv2, `.pth` files)."""

import re

import torch

from islr.models.layouts.layout import Layout, State


def join_biases(state: State) -> State:
    """One bias for queries, keys and values from two: `q_bias`, none for the keys, `v_bias`."""
    joined = dict(state)
    for name in state:
        attention = re.fullmatch(r"(blocks\.\d+\.attn\.)q_bias", name)
        if attention and f"{attention[1]}v_bias" in joined:
            query, value = joined.pop(name), joined.pop(f"{attention[1]}v_bias")
            joined[f"{attention[1]}qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
    return joined


# The two projects write the same names. Pre-training puts `encoder.` before what fine-tuning does not.
VIDEOMAE = Layout(
    name="videomae",
    source="VideoMAE and VideoMAE V2 .pth: pre-training, fine-tuning, distillation",
    families=("vit_*",),
    marks=(r"patch_embed\.proj\.weight", r"blocks\.0\.attn\.q_bias"),
    rules=(
        (r"patch_embed\.proj\.(weight|bias)", r"patch_embed.\1"),
        (r"blocks\.(\d+)\.(norm[12]|attn\.qkv|attn\.proj|mlp\.fc[12])\.(weight|bias)", r"blocks.\1.\2.\3"),
    ),
    left=(
        r"decoder\..+",
        r"encoder_to_decoder\.weight",
        r"mask_token",
        r"(norm|fc_norm|head)\.(weight|bias)",
    ),
    entries=("model", "module"),
    prefixes=("module.", "model.", "encoder."),
    prepare=join_biases,
)
