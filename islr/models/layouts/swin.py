"""Swin's public checkpoints: torchvision's, Video Swin's (mmaction), BEVT's, and image models to inflate."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from islr.models.layouts.layout import Layout
from islr.models.swin import TABLE, WINDOW

FAMILIES = ("swin_*",)
STAGES = 4
_ATTENTION = rf"attn\.(?:qkv|proj)\.(?:weight|bias)|attn\.{TABLE}"
_BLOCK = rf"norm[12]\.(?:weight|bias)|{_ATTENTION}"
_MERGING = r"reduction\.weight|norm\.(?:weight|bias)"
_ENDS = r"patch_embed\.(?:proj|norm)\.(?:weight|bias)|norm\.(?:weight|bias)"
_INDEX = r".*\.relative_position_index"  # follows from the window

_FIRST_TABLE = rf"layers\.0\.blocks\.0\.attn\.{TABLE}"
_IMAGE_STREAM = r"patch_embed_2d\.proj\.weight"
_IMAGE_MASK = r"layers\.0\.blocks\.1\.attn_mask"

# torchvision puts the stages and the mergings between them in one row.
_RULES = (
    (rf"({_ENDS})", r"\1"),
    *(
        rule
        for stage in range(STAGES)
        for rule in (
            (rf"layers\.{stage}\.blocks\.(\d+)\.({_BLOCK})", rf"features.{2 * stage}.\1.\2"),
            (rf"layers\.{stage}\.blocks\.(\d+)\.mlp\.fc1\.(weight|bias)", rf"features.{2 * stage}.\1.mlp.0.\2"),
            (rf"layers\.{stage}\.blocks\.(\d+)\.mlp\.fc2\.(weight|bias)", rf"features.{2 * stage}.\1.mlp.3.\2"),
            (rf"layers\.{stage}\.downsample\.({_MERGING})", rf"features.{2 * stage + 1}.\1"),
        )
    ),
)


def _window(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the window the tables are of, when it is a published one: 7 x 7, whatever its time."""
    plane = (2 * WINDOW[1] - 1) * (2 * WINDOW[2] - 1)
    length = next(len(value) for name, value in state.items() if name.endswith(TABLE))
    moments, rest = divmod(length, plane)
    return {} if rest or moments % 2 == 0 else {"window": [(moments + 1) // 2, *WINDOW[1:]]}


TORCHVISION_SWIN3D = Layout(
    name="torchvision-swin3d",
    source="torchvision swin3d_t, swin3d_s, swin3d_b .pth",
    families=FAMILIES,
    marks=(rf"features\.0\.0\.attn\.{TABLE}", r"patch_embed\.proj\.weight"),
    rules=(
        (rf"({_ENDS})", r"\1"),
        (rf"(features\.[0246]\.\d+\.(?:{_BLOCK}|mlp\.[03]\.(?:weight|bias)))", r"\1"),
        (rf"(features\.[135]\.(?:{_MERGING}))", r"\1"),
    ),
    left=(r"head\.(weight|bias)", _INDEX),
    arguments=_window,
)

MM_SWIN = Layout(
    name="mm-swin",
    source="SwinTransformer/Video-Swin-Transformer .pth (mmaction), BEVT's fine-tuned models among them",
    families=FAMILIES,
    marks=(_FIRST_TABLE,),
    absent=(_IMAGE_STREAM, _IMAGE_MASK),
    rules=_RULES,
    left=(r"cls_head\..+", _INDEX),
    entries=("state_dict",),
    prefixes=("backbone.",),
    arguments=_window,
)

BEVT = Layout(
    name="bevt",
    source="xyzforever/BEVT pre-trained .pth: the encoder, its decoders, and the tokenizer of the targets",
    families=FAMILIES,
    marks=(_FIRST_TABLE, _IMAGE_STREAM),
    rules=_RULES,
    left=(
        r"mask_token",
        r"patch_embed_2d\.(proj|norm)\.(weight|bias)",
        r"fpn(_s|_t)?\.0\.(weight|bias)",
        r"lm_down\.(weight|bias)",
        r"lm_down_st\.0\.(weight|bias)",
        r"cls_head\..+",
        _INDEX,
    ),
    entries=("state_dict",),
    prefixes=("backbone.",),
    arguments=_window,
)


SWIN_2D = Layout(
    name="swin-2d",
    source="microsoft/Swin-Transformer .pth of image models, inflated in time as Video Swin starts (arXiv 2106.13230)",
    families=FAMILIES,
    marks=(_FIRST_TABLE, _IMAGE_MASK),
    rules=_RULES,
    left=(r"head\.(weight|bias)", _INDEX, r".*\.attn_mask"),
    entries=("model",),
)
