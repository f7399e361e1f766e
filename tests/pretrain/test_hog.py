"""HOG targets against a slow independent reference and the recorded originals."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.oracle_helpers import Differences, oracle_entry
from torch import Tensor

from islr.errors import UserError
from pretrain.targets.hog import dense_hog, hog_targets, reference_hog_targets, target_dim


def slow_hog(frame: np.ndarray) -> np.ndarray:
    """float64 loops over one channel `[H, W]`: `[H / 8, W / 8, 9]`."""
    padded = np.pad(frame.astype(np.float64), 1, mode="reflect")
    votes = np.zeros((frame.shape[0] // 8, frame.shape[1] // 8, 9))
    for y in range(frame.shape[0]):
        for x in range(frame.shape[1]):
            window = padded[y : y + 3, x : x + 3]
            gx = window[:, 0] @ (1, 2, 1) - window[:, 2] @ (1, 2, 1)
            gy = window[0] @ (1, 2, 1) - window[2] @ (1, 2, 1)
            bin_index = math.floor(math.degrees(math.atan2(gx, gy)) / 20) % 9
            votes[y // 8, x // 8, bin_index] += math.hypot(gx, gy)
    return votes / np.maximum(np.linalg.norm(votes, axis=-1, keepdims=True), 1e-12)


def straightforward_hog_targets(clip: Tensor, mask: Tensor) -> Tensor:
    """What one writes first: every pixel of every used frame votes into a [9, H, W] buffer, then tokens are picked."""
    batch, times, rows, columns = mask.shape
    frames = clip[:, :, :: clip.shape[2] // times].transpose(1, 2).flatten(0, 1).float()
    kernel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]).expand(3, 1, 3, 3)
    padded = F.pad(frames, (1, 1, 1, 1), mode="reflect")
    gx, gy = F.conv2d(padded, kernel, groups=3), F.conv2d(padded, kernel.transpose(2, 3), groups=3)
    bins = (torch.atan2(gx, gy) / math.pi * 9).floor().long() % 9
    votes = torch.zeros(*gx.shape[:2], 9, *gx.shape[2:]).scatter_add_(
        2, bins[:, :, None], torch.stack([gx, gy], dim=-1).norm(dim=-1)[:, :, None]
    )
    cells = F.normalize(votes.unfold(3, 8, 8).unfold(4, 8, 8).sum(dim=(-1, -2)), dim=2)
    side = cells.shape[-1] // columns
    cells = cells.view(batch, times, 3, 9, rows, side, columns, side).permute(0, 1, 4, 6, 2, 3, 5, 7)
    return cells[mask].flatten(1)


def picture_clip(frames: int, size: int, seed: int = 0) -> Tensor:
    """Smooth uint8 content with flat areas, `[1, 3, frames, size, size]`."""
    noise = torch.randn(1, 3, frames, size, size, generator=torch.Generator().manual_seed(seed))
    smooth = F.avg_pool3d(noise, (1, 9, 9), stride=1, padding=(0, 4, 4))
    return (smooth * 400 + 128).clamp(60, 255).round().to(torch.uint8)


def all_tokens(clip: Tensor, token: int = 16) -> Tensor:
    return torch.ones(len(clip), clip.shape[2], clip.shape[3] // token, clip.shape[4] // token, dtype=torch.bool)


def as_cells(targets: Tensor, mask: Tensor) -> Tensor:
    """Targets of all tokens of single frames, back as `[N, 3, 9, H / 8, W / 8]`."""
    frames, _, rows, columns = mask.shape
    cells = targets.view(frames, rows, columns, 3, 9, 2, 2).permute(0, 3, 4, 1, 5, 2, 6)
    return cells.reshape(frames, 3, 9, 2 * rows, 2 * columns)


def test_targets_are_those_of_the_slow_reference_in_the_documented_order() -> None:
    clip = picture_clip(4, 32)
    mask = torch.rand(1, 2, 2, 2, generator=torch.Generator().manual_seed(1)) < 0.6
    targets = hog_targets(clip, mask)
    assert targets.shape == (int(mask.sum()), target_dim(16))
    for row, (_, t, h, w) in enumerate(mask.nonzero().tolist()):
        for channel in range(3):
            cells = slow_hog(clip[0, channel, 2 * t].numpy())[2 * h : 2 * h + 2, 2 * w : 2 * w + 2]
            for cell_y in range(2):
                for cell_x in range(2):
                    places = [((channel * 9 + k) * 2 + cell_y) * 2 + cell_x for k in range(9)]
                    assert np.allclose(targets[row, places], cells[cell_y, cell_x], atol=1e-6)


def test_larger_tokens_hold_more_cells_and_others_are_refused() -> None:
    clip = picture_clip(2, 64)
    assert hog_targets(clip, torch.ones(1, 1, 2, 2, dtype=torch.bool)).shape == (4, 27 * 16)
    assert hog_targets(clip, torch.ones(1, 1, 8, 8, dtype=torch.bool)).shape == (64, 27)
    with pytest.raises(UserError, match="tokens of 12 pixels"):
        target_dim(12)


def test_flat_cells_are_zero_and_all_others_have_unit_length() -> None:
    clip = torch.full((1, 3, 2, 32, 32), 17, dtype=torch.uint8)
    assert (hog_targets(clip, torch.ones(1, 1, 2, 2, dtype=torch.bool)) == 0).all()
    clip[..., 20:, :] = 200  # a horizontal edge through the lower tokens
    cells = as_cells(hog_targets(clip, torch.ones(1, 1, 2, 2, dtype=torch.bool)), torch.ones(1, 1, 2, 2))
    lengths = cells.norm(dim=2)
    assert torch.equal(lengths[0, 0] > 0.5, torch.tensor([[False] * 4, [False] * 4, [True] * 4, [False] * 4]))
    assert torch.allclose(lengths[lengths > 0], torch.ones(()))
    assert (cells[0, :, 0, 2] == 1).all()  # gx = 0: the first bin


def test_a_shift_and_a_scale_of_the_pixels_change_nothing() -> None:
    clip = picture_clip(2, 32)
    mask = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    darker = (clip.int() - 60).to(torch.uint8)
    assert torch.equal(hog_targets(darker, mask), hog_targets(clip, mask))


def test_no_masked_token_gives_no_row() -> None:
    assert hog_targets(picture_clip(2, 32), torch.zeros(1, 1, 2, 2, dtype=torch.bool)).shape == (0, 108)


@pytest.mark.parametrize("seed", range(3))
def test_fast_path_is_the_straightforward_one(seed: int) -> None:
    clip = torch.cat([picture_clip(4, 48, seed), picture_clip(4, 48, seed + 10)])
    mask = torch.rand(2, 2, 3, 3, generator=torch.Generator().manual_seed(seed)) < 0.4
    assert torch.allclose(hog_targets(clip, mask), straightforward_hog_targets(clip, mask), atol=1e-6)


@pytest.mark.oracle
def test_recorded_histograms(oracles: Path, differences: Differences) -> None:
    _, tensors = oracle_entry(oracles, "hog.safetensors")
    names = [name[3:] for name in tensors if name.startswith("in.")]
    fast, dense = {}, {}
    for name in names:
        frames = tensors[f"in.{name}"]
        mask = all_tokens(frames[:, :, None])
        fast[name] = (as_cells(hog_targets(frames[:, :, None], mask), mask), tensors[f"out.{name}"])
        dense[name] = (dense_hog(frames.float()), tensors[f"out.{name}"])
    differences.all_within("target, HOG of pixels", fast, absolute=1e-6)
    differences.all_within("target, HOG of whole frames", dense, absolute=1e-6)


@pytest.mark.oracle
def test_reference_mode_has_the_original_s_numerics_on_normalised_frames(oracles: Path) -> None:
    _, tensors = oracle_entry(oracles, "hog.safetensors")
    names = [name[4:] for name in tensors if name.endswith("_normalised")]
    assert names
    for name in names:
        frames = (tensors[f"in.{name.removesuffix('_normalised')}"].float() / 255 - 0.45) / 0.225
        mask = all_tokens(frames[:, :, None])
        ours = as_cells(reference_hog_targets(frames[:, :, None], mask), mask)
        # Cells whose gradients are rounding residue depend on the order of summation inside a convolution.
        differs = (ours - tensors[f"out.{name}"]).norm(dim=2) > 1e-3
        assert differs.float().mean() < 0.1, name


@pytest.mark.oracle
def test_recorded_targets_of_all_tokens(oracles: Path, differences: Differences) -> None:
    _, tensors = oracle_entry(oracles, "maskfeat_tiny.safetensors")
    clip, recorded = tensors["x"], tensors["target_all_tokens"]
    side = round((recorded.shape[1] // tensors["mask"].shape[1]) ** 0.5)
    mask = torch.ones(len(clip), tensors["mask"].shape[1], side, side, dtype=torch.bool)
    for name, describe in (("pixels", hog_targets), ("normalised", reference_hog_targets)):
        differences.within(f"target of all tokens, hog: {name}", describe(clip, mask), recorded, absolute=1e-6)
