"""TimeSformers: of kahnchana/svt, of facebookresearch/TimeSformer (`.pyth`), and of Hugging Face's port.

The first two keep the names that our encoder has. SVT's files hold a student and its teacher; SVT fine-tunes its
teacher. An image transformer of DINO's is where SVT's paper starts.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from islr.models.layouts.layout import Layout, State

_FAMILIES = ("timesformer_*",)
_DIVIDED = r"blocks\.0\.temporal_fc\.weight"
_NEVER = r"(?!)"  # a mark of a layout that only the user can choose
_END = r"\.(weight|bias)"
_AS_OURS = tuple(
    (pattern, r"\g<0>")
    for pattern in (
        r"cls_token|pos_embed|time_embed",
        r"(patch_embed\.proj|norm)" + _END,
        r"blocks\.\d+\.(norm1|norm2|temporal_norm1|temporal_fc|mlp\.fc1|mlp\.fc2)" + _END,
        r"blocks\.\d+\.(attn|temporal_attn)\.(qkv|proj)" + _END,
    )
)


def _arguments(normalisation: str) -> Callable[[Mapping[str, Tensor]], dict[str, Any]]:
    """Return the input that the positions are for, and the pixels' range by who trained the weights."""

    def said(state: Mapping[str, Tensor]) -> dict[str, Any]:
        found: dict[str, Any] = {"normalisation": normalisation}
        shapes = {name: value.shape for name, value in state.items()}
        moments = [s[1] for name, s in shapes.items() if name.endswith(("time_embed", "time_embeddings"))]
        places = [s[1] - 1 for name, s in shapes.items() if name.endswith(("pos_embed", "position_embeddings"))]
        patches = [s[-1] for name, s in shapes.items() if name.endswith(("embed.proj.weight", "projection.weight"))]
        if moments:
            found["frames"] = moments[0]
        if places and patches:
            found["size"] = patches[0] * math.isqrt(places[0])
        return found

    return said


SVT = Layout(
    name="svt",
    source="kahnchana/svt checkpoint.pth: the teacher, or the student of a file without one",
    families=_FAMILIES,
    marks=(_DIVIDED,),
    rules=_AS_OURS,
    left=(r"head\..+",),
    entries=("teacher", "student"),
    prefixes=("module.", "backbone."),
    arguments=_arguments("imagenet"),
)

SVT_STUDENT = Layout(
    name="svt-student",
    source="kahnchana/svt checkpoint.pth: the student of a file that holds both",
    families=_FAMILIES,
    marks=(_DIVIDED, _NEVER),
    rules=_AS_OURS,
    left=(r"head\..+",),
    entries=("student",),
    prefixes=("module.", "backbone."),
    arguments=_arguments("imagenet"),
)

TIMESFORMER = Layout(
    name="timesformer",
    source="facebookresearch/TimeSformer .pyth, divided space-time attention",
    families=_FAMILIES,
    marks=(_DIVIDED,),
    rules=_AS_OURS,
    left=(r"head\..+",),
    entries=("model_state",),
    prefixes=("module.", "model."),
    arguments=_arguments("slowfast"),
)


def _start_in_time(state: State) -> State:
    """Attention over time starts as the attention within a frame, as both projects load an image transformer."""
    copies = {
        re.sub(r"\.(attn|norm1)\.", r".temporal_\1.", name): value.clone()
        for name, value in state.items()
        if re.fullmatch(r"blocks\.\d+\.(attn|norm1)\..+", name)
    }
    return state | copies


DINO_VIT = Layout(
    name="dino-vit",
    source="facebookresearch/dino ViT, the backbone or the teacher of a whole checkpoint: SVT's paper starts from it",
    families=_FAMILIES,
    marks=(r"blocks\.0\.attn\.qkv\.weight", _NEVER),
    rules=_AS_OURS,
    left=(r"head\..+",),
    fresh=(r"time_embed", r"blocks\.\d+\.temporal_fc" + _END),
    entries=("teacher",),
    prefixes=("module.", "backbone."),
    prepare=_start_in_time,
    arguments=_arguments("imagenet"),
)

_HF_LAYER = r"encoder\.layer\.(\d+)\."

HF_TIMESFORMER = Layout(
    name="hf-timesformer",
    source="Hugging Face transformers TimesformerModel and TimesformerForVideoClassification",
    families=_FAMILIES,
    marks=(r"encoder\.layer\.0\.temporal_dense\.weight",),
    rules=(
        (r"embeddings\.cls_token", r"cls_token"),
        (r"embeddings\.position_embeddings", r"pos_embed"),
        (r"embeddings\.time_embeddings", r"time_embed"),
        (r"embeddings\.patch_embeddings\.projection" + _END, r"patch_embed.proj.\1"),
        (_HF_LAYER + r"layernorm_before" + _END, r"blocks.\1.norm1.\2"),
        (_HF_LAYER + r"layernorm_after" + _END, r"blocks.\1.norm2.\2"),
        (_HF_LAYER + r"temporal_layernorm" + _END, r"blocks.\1.temporal_norm1.\2"),
        (_HF_LAYER + r"temporal_dense" + _END, r"blocks.\1.temporal_fc.\2"),
        (_HF_LAYER + r"attention\.attention\.qkv" + _END, r"blocks.\1.attn.qkv.\2"),
        (_HF_LAYER + r"attention\.output\.dense" + _END, r"blocks.\1.attn.proj.\2"),
        (_HF_LAYER + r"temporal_attention\.attention\.qkv" + _END, r"blocks.\1.temporal_attn.qkv.\2"),
        (_HF_LAYER + r"temporal_attention\.output\.dense" + _END, r"blocks.\1.temporal_attn.proj.\2"),
        (_HF_LAYER + r"intermediate\.dense" + _END, r"blocks.\1.mlp.fc1.\2"),
        (_HF_LAYER + r"output\.dense" + _END, r"blocks.\1.mlp.fc2.\2"),
        (r"layernorm" + _END, r"norm.\1"),
    ),
    left=(r"classifier" + _END,),
    prefixes=("timesformer.",),
    arguments=_arguments("slowfast"),
)
