"""torchvision's MViTv2 (`torchvision.models.video.mvit_v2_s`), and files of its `MViT` class with other blocks."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from islr.models.layouts.layout import Layout
from islr.models.layouts.slowfast import SLOWFAST, to_slowfast_name


def _form(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """As for SlowFast's files: the tensors are the same, under other names."""
    return SLOWFAST.arguments({to_slowfast_name(name): value for name, value in state.items()})


TORCHVISION_MVIT = Layout(
    name="torchvision-mvit",
    source="torchvision.models.video.mvit_v2_s, supervised on Kinetics-400",
    families=("mvit_*",),
    # The relative positions tell MViTv2 from MViTv1, which has absolute ones.
    marks=(r"conv_proj\.weight", r"pos_encoding\.class_token", r"blocks\.0\.attn\.rel_pos_h"),
    rules=(
        (r"(conv_proj\.(?:weight|bias))", r"\1"),
        (r"(pos_encoding\.class_token)", r"\1"),
        (r"(blocks\.\d+\..+)", r"\1"),
    ),
    left=(r"norm\.(weight|bias)", r"head\.1\.(weight|bias)"),
    arguments=_form,
)
