"""Saliency for guided masks: motion, and the boxes of the signer's hands and face.

Shapes: T H W frames and pixels, t h w the window of a mask's cells.
"""

from typing import Protocol

import numpy as np
from torch import Tensor

from islr.data.loading.loader import Batch
from islr.data.manifest import Manifest
from islr.data.views.signer_boxes import signer_boxes
from islr.data.views.source import ClipSource
from islr.data.views.views import AugmentConfig, CroppedClip
from islr.errors import UserError

HAND_MASKS = ("hand_cube", "hand_tube")


class MaskConfig(Protocol):
    """The options of a recipe that choose the saliency of its masks."""

    @property
    def name(self) -> str: ...
    @property
    def mask(self) -> str: ...
    @property
    def video(self) -> AugmentConfig: ...


def cell_motion(clip: np.ndarray, window: tuple[int, int, int]) -> np.ndarray:
    """Return the mean squared difference of successive frames in each cell of a mask.

    Args:
        clip: uint8 `[C, T, H, W]`.
        window: Cells along time, height, width, which divide T, H and W.

    Returns:
        Float64 `window`; differences are those to the previous frame, for the first frame those to the next one.
    """
    frames = clip.astype(np.float32)
    change = np.square(np.diff(frames, axis=1)).mean(axis=0)  # [T - 1, H, W]
    change = np.concatenate([change[:1], change])
    cells = change.reshape(
        [part for n, cells in zip(change.shape, window, strict=True) for part in (cells, n // cells)]
    )
    return cells.mean(axis=(1, 3, 5), dtype=np.float64)


def cell_hands(source: ClipSource, shot: CroppedClip, window: tuple[int, int, int], face_weight: float) -> np.ndarray:
    """Return the share of each cell that the signer's hands or face cover, according to the pose file.

    Args:
        source: The clip.
        shot: Frames and crop taken from it.
        window: Cells along time, height, width; time divides T.
        face_weight: Weight of the face relative to the hands.

    Returns:
        Float64 `window`, 0..1; all 0 for a clip without a pose.

    Raises:
        DecodeError: The clip's pose file cannot be read.
    """
    if not source.has_pose:
        return np.zeros(window)
    shares = box_shares(signer_boxes(source.pose(), shot, source.length), window)
    return (shares * np.array([1.0, 1.0, face_weight])[:, None, None, None]).max(axis=0)


def box_shares(boxes: np.ndarray, window: tuple[int, int, int]) -> np.ndarray:
    """Return the share of each cell inside each box, mean over the frames of a moment.

    Args:
        boxes: `[T, P, 4]`: left, top, right, bottom in 0..1 of the picture.
        window: Cells along time, height, width; time divides T.

    Returns:
        `[P, t, h, w]`, 0..1.
    """
    columns, rows = (
        np.clip(
            np.minimum(boxes[..., [end]] * cells, np.arange(cells) + 1)
            - np.maximum(boxes[..., [start]] * cells, np.arange(cells)),
            0,
            1,
        )
        for start, end, cells in ((0, 2, window[2]), (1, 3, window[1]))
    )  # [T, P, w], [T, P, h]
    shares = rows[..., :, None] * columns[..., None, :]  # [T, P, h, w]
    return shares.reshape(window[0], -1, *shares.shape[1:]).mean(axis=1).swapaxes(0, 1)


def check_poses(config: MaskConfig, manifest: Manifest) -> str:
    """Return a remark about clips whose masks cannot follow hands; empty if there are none.

    Raises:
        UserError: No clip has a pose, or RandAugment would move the pictures but not the boxes.
    """
    if config.mask not in HAND_MASKS:
        return ""
    if config.video.randaugment is not None:
        raise UserError(
            f"recipe.mask={config.mask} cannot follow RandAugment's rotations and shifts; leave video.randaugment out"
        )
    clips = list(manifest.select())
    bare = [clip.clip_id for clip in clips if not clip.pose]
    if clips and len(bare) == len(clips):
        raise UserError(
            f"recipe.mask={config.mask} follows poses and no clip of {manifest.name} has one; extract or convert "
            "poses first (islr data poses), or choose another mask"
        )
    if not bare:
        return ""
    return f"{len(bare)} of {len(clips)} clips have no pose ({bare[0]}); their masks are random"


def guided_share(batch: Batch) -> dict[str, Tensor]:
    """Return the share of clips whose mask was guided, for the log; nothing for random masks."""
    return {"guided": batch["guided"].float().mean()} if "guided" in batch else {}
