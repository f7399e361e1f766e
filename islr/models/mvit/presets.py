"""MViTv2 by name: the published sizes (arXiv 2112.01526 table 1), and one that two CPU cores train.

All take frames in multiples of 2 and sizes in multiples of 4. `last_stride` is the stride of the last query pooling: 2,
or 1 for MaskFeat pre-training, which predicts at 16 pixels.
"""

from collections.abc import Sequence
from typing import Any

from islr.models.mvit.encoder import MViTEncoder
from islr.models.mvit.sizes import MViTSizes
from islr.models.presets import Preset

KV_STRIDE = 8


def _sizes(
    depth: int, embed_dim: int, doubled: Sequence[int], halved: Sequence[int], num_heads: int = 1
) -> dict[str, MViTSizes]:
    """Sizes whose width and heads double in the blocks `doubled`, and whose grid is halved in the blocks `halved`."""
    double, halve = dict.fromkeys(doubled, 2), dict.fromkeys(halved, 2)
    return {"sizes": MViTSizes(depth, embed_dim, double, double, halve, KV_STRIDE, num_heads)}


def _mvit(sizes: MViTSizes, last_stride: int, **arguments: Any) -> MViTEncoder:
    return MViTEncoder(sizes.with_last_stride(last_stride), **arguments)


_MASKFEAT = {"widen_in": "mlp", "pool": "mean", "drop_path": 0.0, "init": "slowfast", "input": "rgb"}
_SUPERVISED = {**_MASKFEAT, "widen_in": "attention", "pool": "class"}
PRESETS = {
    # For two CPU cores, under a million parameters: the shape of `mvit_s` at a width and depth for 8 x 64 x 64.
    "mvit_tiny": Preset(
        _mvit,
        {
            "frames": 8,
            "size": 64,
            "last_stride": 2,
            "pool": "mean",
            "drop_path": 0.0,
            "init": "fan_in",
            "input": "rgb",
        },
        _sizes(depth=6, embed_dim=24, doubled=(1, 3, 5), halved=(0, 2, 5)),
    ),
    # 16 x 4: SlowFast `k400_MVITv2_S_16x4_MaskFeat_PT` and `_FT`, which has a drop_path of .1. The supervised model of
    # SlowFast and torchvision is `widen_in="attention", pool="class"`.
    "mvit_s": Preset(
        _mvit,
        {"frames": 16, "size": 224, "last_stride": 2, **_MASKFEAT},
        _sizes(depth=16, embed_dim=96, doubled=(1, 3, 14), halved=(1, 3, 14)),
    ),
    # 32 x 3: SlowFast `Kinetics/MVITv2_B_32x3`, published as a supervised model alone, with a drop_path of .3.
    "mvit_b": Preset(
        _mvit,
        {"frames": 32, "size": 224, "last_stride": 2, **_SUPERVISED},
        _sizes(depth=24, embed_dim=96, doubled=(2, 5, 21), halved=(2, 5, 21)),
    ),
    # SlowFast `k400_MVITv2_L_16x4_MaskFeat_PT` and `_FT`, which has a drop_path of .2. The supervised model
    # (`Kinetics/MVITv2_L_40x3_test`, drop_path .75) is `frames=40, size=312, widen_in="attention", pool="class",
    # normalisation="imagenet"`: unlike the smaller ones it was trained on ImageNet's mean and std.
    "mvit_l": Preset(
        _mvit,
        {"frames": 16, "size": 224, "last_stride": 2, **_MASKFEAT, "normalisation": "slowfast"},
        _sizes(depth=48, embed_dim=144, doubled=(2, 8, 44), halved=(2, 8, 44), num_heads=2),
    ),
}
