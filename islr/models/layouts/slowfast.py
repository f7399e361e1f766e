"""SlowFast's MViT and MaskMViT (facebookresearch/SlowFast, `.pyth` files)."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from islr.models.layouts.layout import Layout, State

LARGE_WIDTH = 144  # patch embedding of MViTv2-L, whose supervised weights alone are for ImageNet's mean and std


def _flat_class_token(state: State) -> State:
    return state | {"cls_token": state["cls_token"].flatten()} if "cls_token" in state else state


def _form(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the form the tensors are of: MaskFeat widens in MLPs, the supervised model in attention.

    In a block that changes width, the attention gives the new width in the supervised form and the old in MaskFeat's.
    """
    widths = {
        name.split(".")[1]: (value.shape[0], state[f"{name.removesuffix('.proj.weight')}.attn.proj.weight"].shape[0])
        for name, value in state.items()
        if re.fullmatch(r"blocks\.\d+\.proj\.weight", name)
    }
    in_attention = any(width == attention for width, attention in widths.values())
    form: dict[str, Any] = {"widen_in": "attention" if in_attention else "mlp"}
    form["pool"] = "class" if in_attention else "mean"
    if "mask_token" in state:
        form["last_stride"] = 1
    if in_attention and len(state["patch_embed.proj.weight"]) == LARGE_WIDTH:
        form["normalisation"] = "imagenet"
    return form


SLOWFAST = Layout(
    name="slowfast",
    source="facebookresearch/SlowFast MViTv2 .pyth: MaskFeat pre-training and fine-tuning, supervised",
    families=("mvit_*",),
    marks=(r"patch_embed\.proj\.weight", r"blocks\.0\.attn\.pool_k\.weight"),
    rules=(
        (r"patch_embed\.proj\.(weight|bias)", r"conv_proj.\1"),
        (r"cls_token", r"pos_encoding.class_token"),
        (r"blocks\.(\d+)\.attn\.pool_([qkv])\.weight", r"blocks.\1.attn.pool_\2.pool.weight"),
        (r"blocks\.(\d+)\.attn\.norm_([qkv])\.(weight|bias)", r"blocks.\1.attn.pool_\2.norm_act.0.\3"),
        (r"blocks\.(\d+)\.attn\.proj\.(weight|bias)", r"blocks.\1.attn.project.0.\2"),
        (r"blocks\.(\d+)\.attn\.(qkv\.weight|qkv\.bias|rel_pos_[hwt])", r"blocks.\1.attn.\2"),
        (r"blocks\.(\d+)\.proj\.(weight|bias)", r"blocks.\1.project.\2"),
        (r"blocks\.(\d+)\.(norm[12])\.(weight|bias)", r"blocks.\1.\2.\3"),
        (r"blocks\.(\d+)\.mlp\.fc1\.(weight|bias)", r"blocks.\1.mlp.0.\2"),
        (r"blocks\.(\d+)\.mlp\.fc2\.(weight|bias)", r"blocks.\1.mlp.3.\2"),
    ),
    left=(
        r"mask_token",
        r"pred_head\..+",
        r"norm\.(weight|bias)",
        r"head\.projection\.(weight|bias)",
        r"hogs\.\d+\.weight_[xy]",
    ),
    entries=("model_state",),
    prepare=_flat_class_token,
    arguments=_form,
)


def to_slowfast_name(name: str) -> str:
    """Return SlowFast's name of one of our MViT parameters."""
    name = name.replace("conv_proj.", "patch_embed.proj.").replace("pos_encoding.class_token", "cls_token")
    name = re.sub(r"attn\.pool_([qkv])\.pool\.", r"attn.pool_\1.", name)
    name = re.sub(r"attn\.pool_([qkv])\.norm_act\.0\.", r"attn.norm_\1.", name)
    name = name.replace("attn.project.0.", "attn.proj.").replace(".project.", ".proj.")
    return re.sub(r"mlp\.([03])\.", lambda match: f"mlp.fc{1 if match[1] == '0' else 2}.", name)
