"""Token grids of video encoders: hiding some of them behind a learned token.

Shapes: B batch, t h w a token grid, D width.
"""

import torch
from torch import Tensor

from islr.errors import UserError

Grid = tuple[int, int, int]  # tokens along time, height, width


def resize_mask(mask: Tensor, grid: Grid) -> Tensor:
    """Repeat the cells of a bool mask `[B, t, h, w]` along height and width until it fits `grid`.

    Raises:
        UserError: The time axes differ, or a cell does not cover whole tokens.
    """
    height, width = mask.shape[2:]
    if mask.shape[1] != grid[0] or grid[1] % height or grid[2] % width:
        raise UserError(f"a mask of {list(mask.shape[1:])} cells does not fit a token grid of {list(grid)}")
    return mask.repeat_interleave(grid[1] // height, dim=2).repeat_interleave(grid[2] // width, dim=3)


def hide_tokens(tokens: Tensor, mask: Tensor, mask_token: Tensor) -> Tensor:
    """Put `mask_token` `[D]` in the place of those tokens `[B, t, h, w, D]` that a mask hides.

    Args:
        tokens: Patch embeddings.
        mask: bool `[B, t, h', w']`, true = hidden; enlarged to the tokens' grid as `resize_mask` does.
        mask_token: What is put there.
    """
    _, time, height, width, _ = tokens.shape
    hidden = resize_mask(mask, (time, height, width))[..., None]
    return torch.where(hidden, mask_token.to(tokens.dtype), tokens)
