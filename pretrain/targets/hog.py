"""Histograms of oriented gradients, the targets of MaskFeat (Wei et al., arXiv 2112.09133 section 3).

Per colour channel: Sobel gradients (reflected border), 9 unsigned orientation bins of 20 degrees with hard
assignment, magnitudes summed over cells of 8 x 8 pixels, the bins of each cell scaled to unit length. A
token's target is the cells it covers in the first frame it covers; there are 2 x 2 in the published models,
giving 108 numbers at index ((channel * 9 + bin) * 2 + cell_y) * 2 + cell_x.

Deviation: computed on pixel values 0..255 before normalisation. The histogram does not change under a shift
or a scale of the pixels, and on whole numbers the gradients are exact on every device, so that a flat cell is
truly zero. On normalised floats a flat cell holds rounding residue, which the unit length turns into a
full-sized random target; `reference_hog_targets` reproduces that.

Shapes: B clips, C = 3 channels, T frames, t h w the token grid, M masked tokens, p pixels along a token's
side.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from islr.errors import UserError

BINS = 9
CELL = 8  # pixels along a cell's side
CHANNELS = 3


def target_dim(token_pixels: int, bins: int = BINS) -> int:
    """Return the length of a token's target.

    Args:
        token_pixels: Pixels along the token's side.
        bins: Orientations of a histogram.

    Raises:
        UserError: A token does not cover whole cells.
    """
    if token_pixels % CELL:
        raise UserError(f"tokens of {token_pixels} pixels do not cover whole HOG cells of {CELL} pixels")
    return CHANNELS * bins * (token_pixels // CELL) ** 2


def hog_targets(clip: Tensor, mask: Tensor, bins: int = BINS) -> Tensor:
    """Return the targets of the masked tokens; only their pixels are read, so the cost is that of the mask.

    Args:
        clip: `[B, 3, T, H, W]`, uint8; floats are taken as they are.
        mask: bool `[B, t, h, w]`, true = masked; its grid divides the clip's.
        bins: Orientations over 180 degrees.

    Returns:
        Float `[M, target_dim]`, tokens in the order (clip, time, row, column).
    """
    pixels = _token_pixels(clip, mask).float()  # [M, C, p + 2, p + 2]
    # The Sobel kernel is [1, 2, 1] across the gradient times [1, 0, -1] along it.
    down = (pixels[..., :-2, :] + pixels[..., 2:, :]).add_(pixels[..., 1:-1, :], alpha=2)
    across = (pixels[..., :-2] + pixels[..., 2:]).add_(pixels[..., 1:-1], alpha=2)
    gx = down[..., :-2] - down[..., 2:]  # [M, C, p, p]
    gy = across[..., :-2, :] - across[..., 2:, :]
    cells = pixels.shape[-1] // CELL
    # floor(angle / pi * bins) runs from -bins to bins; those `bins` apart are the same orientation.
    steps = torch.atan2(gx, gy).div_(math.pi).mul_(bins).floor_().add_(bins).long()
    magnitude = gx.square_().add_(gy.square_()).sqrt_()
    sums = pixels.new_zeros(magnitude.numel() // CELL**2, 2 * bins + 1)
    sums.scatter_add_(1, _by_cell(steps, cells), _by_cell(magnitude, cells))
    histogram = sums[:, :bins] + sums[:, bins:-1]
    histogram[:, 0] += sums[:, -1]
    histogram = F.normalize(histogram, dim=1).view(-1, CHANNELS, cells, cells, bins)
    return histogram.permute(0, 1, 4, 2, 3).flatten(1)


def motion_targets(clip: Tensor, mask: Tensor, bins: int) -> Tensor:
    """Return HOG of temporal differences for the masked tokens: zero where nothing moves.

    These are the `hog_targets` of the difference between the last and the first frame of each token, in the same order:
    moving edges stand out, a still background vanishes. They resemble the motion boundaries of Dalal et al., "Human
    detection using oriented histograms of flow and appearance" (ECCV 2006), with the difference in place of a flow.

    Args:
        clip: uint8 `[B, 3, T, H, W]`, two or more frames per token.
        mask: As in `hog_targets`.
        bins: Orientations over 180 degrees.
    """
    per_token = clip.shape[2] // mask.shape[1]
    first, last = clip[:, :, ::per_token], clip[:, :, per_token - 1 :: per_token]
    return hog_targets(last.to(torch.int16) - first, mask, bins)


def _by_cell(values: Tensor, cells: int) -> Tensor:
    """`[M, C, p, p]` -> `[M * C * cells * cells, 64]`."""
    return values.view(-1, cells, CELL, cells, CELL).transpose(2, 3).reshape(-1, CELL**2)


def _token_pixels(clip: Tensor, mask: Tensor) -> Tensor:
    """Return the pixels of each masked token's first frame with a border of one, `[M, C, p + 2, p + 2]`."""
    _, times, rows, columns = mask.shape
    frames = clip[:, :, :: clip.shape[2] // times]  # [B, C, t, H, W]
    side = frames.shape[3] // rows
    frames = torch.cat([frames[..., 1:2, :], frames, frames[..., -2:-1, :]], dim=3)
    frames = torch.cat([frames[..., 1:2], frames, frames[..., -2:-1]], dim=4)  # reflected by one pixel
    channels, height = frames.shape[1], frames.shape[3]
    strips = frames.unfold(4, side + 2, side).reshape(-1, side + 2)  # every row of pixels of every token column
    clip_index, time, row, column = mask.nonzero().unbind(dim=1)  # [M] each
    channel = torch.arange(channels, device=clip.device)
    plane = (clip_index[:, None] * channels + channel) * times + time[:, None]  # [M, C]
    lines = plane[..., None] * height + row[:, None, None] * side + torch.arange(side + 2, device=clip.device)
    rows_of_tokens = lines * columns + column[:, None, None]  # [M, C, p + 2]
    return strips.index_select(0, rows_of_tokens.flatten()).view(*rows_of_tokens.shape, side + 2)


def reference_hog_targets(clip: Tensor, mask: Tensor) -> Tensor:
    """Return `hog_targets` with the original's numerics: dense convolutions over a normalised float clip.

    Cells without contrast hold amplified rounding noise, as in the published pre-training.

    Args:
        clip: Normalised float `[B, 3, T, H, W]`.
        mask: As in `hog_targets`.
    """
    batch, times, rows, columns = mask.shape
    frames = clip[:, :, :: clip.shape[2] // times].transpose(1, 2).flatten(0, 1)  # [B * t, C, H, W]
    histogram = dense_hog(frames).unflatten(0, (batch, times))  # [B, t, C, 9, H / 8, W / 8]
    cells = histogram.shape[-1] // columns
    tokens = histogram.unflatten(-1, (columns, cells)).unflatten(-3, (rows, cells))  # [B, t, C, 9, h, cy, w, cx]
    return tokens.permute(0, 1, 4, 6, 2, 3, 5, 7)[mask].flatten(1)


def dense_hog(frames: Tensor) -> Tensor:
    """Return normalised histograms of all cells of float frames `[N, 3, H, W]`: `[N, 3, 9, H / 8, W / 8]`."""
    sobel = frames.new_tensor([[1, 0, -1], [2, 0, -2], [1, 0, -1]]).expand(CHANNELS, 1, 3, 3)
    padded = F.pad(frames, (1, 1, 1, 1), mode="reflect")
    gx = F.conv2d(padded, sobel, groups=CHANNELS)
    gy = F.conv2d(padded, sobel.transpose(2, 3), groups=CHANNELS)
    magnitude = torch.stack([gx, gy], dim=-1).norm(dim=-1)
    bins = (torch.atan2(gx, gy) / math.pi * BINS).floor().long() % BINS
    votes = frames.new_zeros(*gx.shape[:2], BINS, *gx.shape[2:]).scatter_(2, bins[:, :, None], magnitude[:, :, None])
    return F.normalize(F.avg_pool2d(votes.flatten(0, 1), CELL) * CELL**2, dim=1).unflatten(0, gx.shape[:2])
