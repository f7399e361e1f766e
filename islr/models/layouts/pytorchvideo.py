"""pytorchvideo's model zoo (facebookresearch/pytorchvideo, `.pyth` files with the entry `model_state`)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from islr.models.layouts.layout import Layout


def _class_token(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"pool": "class"}


PYTORCHVIDEO = Layout(
    name="pytorchvideo",
    source="pytorchvideo model zoo: SLOWFAST_8x8_R50, X3D_S, X3D_M, CSN_32x2_R101, I3D_8x8_R50",
    families=("slowfast_*", "x3d_*", "csn_*", "i3d_r50"),
    marks=(r"blocks\.0\..+", r"blocks\.1\.(multipathway_blocks\.0\.)?res_blocks\.0\.branch2\.conv_a\.weight"),
    rules=((r"(blocks\.\d+\.(?!proj\.).+)", r"\1"),),
    left=(r"blocks\.\d+\.proj\.(weight|bias)",),
    entries=("model_state",),
)

PYTORCHVIDEO_MVIT = Layout(
    name="pytorchvideo-mvit",
    source="pytorchvideo model zoo: MVIT_B_16x4",
    families=("pytorchvideo_mvit_*",),
    marks=(r"patch_embed\.patch_model\.weight", r"cls_positional_encoding\.cls_token", r"blocks\.0\.attn\.q\.weight"),
    rules=((r"((?:patch_embed|cls_positional_encoding|blocks)\..+)", r"\1"),),
    left=(r"norm_embed\.(weight|bias)", r"head\.proj\.(weight|bias)"),
    entries=("model_state",),
    arguments=_class_token,
)
