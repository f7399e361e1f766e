"""Random clips for encoders, and another input size for each tiny preset."""

from typing import Any

import torch
from torch import Tensor

from islr.models import InputSpec
from islr.models.mvit.sizes import MViTSizes

# Arguments by which each preset takes another input size; one line per family.
OTHER_SIZE = {
    "frame_conv_tiny": {"frames": 2, "size": 96},
    "hiera_tiny": {"frames": 4, "size": 96},
    "mvit_tiny": {"frames": 4, "size": 96},
    "vit_tiny": {"frames": 4, "size": 96},
    "pose_conv_transformer_tiny": {"frames": 24},
    "pose_transformer_tiny": {"frames": 24},
    "timesformer_tiny": {"frames": 4, "size": 96},
    "i3d_tiny": {"frames": 11, "size": 50},
    "s3d_tiny": {"frames": 5, "size": 49},
    "r3d_tiny": {"frames": 5, "size": 49},
    "r2plus1d_tiny": {"frames": 5, "size": 49},
    "slowfast_tiny": {"frames": 12, "size": 49},
    "x3d_tiny": {"frames": 5, "size": 49},
    "csn_tiny": {"frames": 5, "size": 49},
    "pytorchvideo_mvit_tiny": {"frames": 4, "size": 52},
    "stgcn_tiny": {"frames": 9},
    "slgcn_tiny": {"frames": 9},
    "spoter_tiny": {"frames": 9},
    "swin_tiny": {"frames": 4, "size": 96},
}

# Sizes of each preset's class that leave as few blocks as show each kind of them.
FEWER_BLOCKS: dict[str, dict[str, Any]] = {
    "hiera_tiny": {"stages": (1, 1, 1, 1)},
    "mvit_tiny": {"sizes": MViTSizes(2, 24, {1: 2}, {1: 2}, {0: 2}, 8)},
    "pose_transformer_tiny": {"depth": 2},
    "pytorchvideo_mvit_tiny": {
        "depth": 2,
        "embed_dim_mul": [[1, 2.0]],
        "atten_head_mul": [[1, 2.0]],
        "pool_q_stride_size": [[0, 1, 2, 2], [1, 1, 2, 2]],
    },
    "slgcn_tiny": {"channels": (32, 64)},
    "spoter_tiny": {"depth": 1},
    "stgcn_tiny": {"channels": (32, 64)},
    "swin_tiny": {"depths": (2, 1), "num_heads": (1, 2)},
    "timesformer_tiny": {"depth": 2},
    "vit_tiny": {"depth": 2},
    "x3d_tiny": {"blocks": 1},
}

# Presets that take clips of any size their patches divide, and the shape of one that they refuse.
REFUSED_SHAPE = {
    "timesformer_tiny": (3, 8, 64, 72),
}


def random_clip(spec: InputSpec, batch: int = 2, seed: int = 0) -> Tensor:
    """A batch of standard normal clips as the encoder takes them; about one pose point in six is not seen."""
    clip = torch.randn(batch, *spec.clip_shape, generator=torch.Generator().manual_seed(seed))
    if spec.modality == "pose":
        clip[..., 2] = (clip[..., 2] > -1).float()
    return clip
