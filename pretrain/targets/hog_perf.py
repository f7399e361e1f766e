"""Speed of the HOG targets relative to a dense reference."""

import numpy as np
import torch
from torch import Tensor

from islr.perf.decode import Contest
from pretrain.masks.draw import cube_mask
from pretrain.targets.hog import CHANNELS, hog_targets, reference_hog_targets


def speed_contest(frames: int = 16, size: int = 224) -> Contest:
    """Return the contest of the targets of one clip under the published mask, against a dense computation."""
    rng = np.random.Generator(np.random.Philox(0))
    clip = torch.from_numpy(rng.integers(0, 256, (1, CHANNELS, frames, size, size), dtype=np.uint8))
    cells = cube_mask((frames // 2, size // 32, size // 32), 0.4, rng)
    mask = torch.from_numpy(cells)[None].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    def dense() -> Tensor:
        return reference_hog_targets(clip.float(), mask)

    def agree() -> str:
        difference = float((hog_targets(clip, mask) - dense()).abs().max())
        return f"largest difference {difference:.1e} over {int(mask.sum())} masked tokens of {mask.numel()}"

    return Contest(
        f"HOG targets, {frames}x{size}x{size} clip", lambda: hog_targets(clip, mask), dense, "dense reference", agree
    )
