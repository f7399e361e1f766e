"""Drawing of a recipe's inputs and predictions for the report: uint8 `[H, W, 3]`, at least `SIDE` a side."""

import itertools
import math

import cv2
import numpy as np

from islr.data.poses.pose import LEFT_HAND, RIGHT_HAND

SIDE = 256
HIDDEN_GREY = 96
VISIBLE_DIM = 0.35  # brightness of visible cells beside predicted ones

_FINGERS = (
    (0, 1, 2, 3, 4),
    (0, 5, 6, 7, 8),
    (5, 9, 10, 11, 12),
    (9, 13, 14, 15, 16),
    (13, 17, 18, 19, 20),
    (0, 17),
)
_BODY = ((11, 12), (11, 13), (13, 15), (12, 14), (14, 16), (0, 2), (0, 5), (2, 7), (5, 8))
BONES = _BODY + tuple(
    (hand.start + a, hand.start + b)
    for hand in (LEFT_HAND, RIGHT_HAND)
    for finger in _FINGERS
    for a, b in itertools.pairwise(finger)
)


def enlarge(image: np.ndarray) -> np.ndarray:
    """Repeat pixels until the shorter side has at least `SIDE`."""
    factor = max(math.ceil(SIDE / min(image.shape[:2])), 1)
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def hide_cells(image: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Paint grey where `hidden` (bool `[h, w]`, cells of the image) is true."""
    height, width = image.shape[0] // hidden.shape[0], image.shape[1] // hidden.shape[1]
    area = hidden.repeat(height, axis=0).repeat(width, axis=1)
    return np.where(area[..., None], np.uint8(HIDDEN_GREY), image)


def cell_contrast(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return the edge strength of each of `rows` x `columns` cells, 0..1, 1 for the strongest tenth."""
    grey = image.astype(np.float32).mean(axis=2)
    down, across = np.gradient(grey)
    size = (rows, grey.shape[0] // rows, columns, grey.shape[1] // columns)
    edges = np.hypot(down, across).reshape(size).mean(axis=(1, 3))
    return np.sqrt(np.clip(edges / max(float(np.quantile(edges, 0.9)), 1e-6), 0, 1))


def hog_picture(histogram: np.ndarray, brightness: np.ndarray | None = None) -> np.ndarray:
    """Draw each cell of a histogram `[rows, columns, 9]` as strokes across the gradient, as bright as strong.

    Args:
        histogram: Bins of one cell, averaged over colour channels; at most 1 each.
        brightness: Factor for each cell, `[rows, columns]`.
    """
    rows, columns, bins = histogram.shape
    side = max(math.ceil(SIDE / min(rows, columns)), 12)
    strength = np.clip(histogram, 0, 1) if brightness is None else np.clip(histogram, 0, 1) * brightness[..., None]
    canvas = np.einsum("rck,kyx->rycx", strength, _strokes(bins, side)).reshape(rows * side, columns * side)
    return np.clip(canvas * 255, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)


def _strokes(bins: int, side: int) -> np.ndarray:
    """Draw one soft line per bin, `[bins, side, side]`; angle a belongs to a gradient (sin a, cos a) in x, y."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    pictures = []
    for step in range(bins):
        angle = (step + 0.5) * math.pi / bins
        off_line = np.abs(x * math.sin(angle) + y * math.cos(angle))  # distance along the gradient
        inside = np.hypot(x, y) < side / 2
        pictures.append(np.clip(1.5 - off_line / max(side / 16, 0.75), 0, 1) * inside)
    return np.stack(pictures)


def token_colours(frames: np.ndarray, tokens: np.ndarray, vocabulary: int) -> np.ndarray:
    """Return a colour for each visual token, the mean colour of its cells, uint8 `[V, 3]`.

    Args:
        frames: uint8 `[..., H, W, 3]`.
        tokens: Indices `[..., h, w]` of their cells; tokens that occur nowhere are grey.
        vocabulary: V.
    """
    rows, columns = tokens.shape[-2:]
    height, width = frames.shape[-3] // rows, frames.shape[-2] // columns
    cells = frames.reshape(-1, rows, height, columns, width, 3).mean(axis=(2, 4), dtype=np.float32).reshape(-1, 3)
    ids = tokens.reshape(-1)
    counts = np.bincount(ids, minlength=vocabulary)[:, None]
    sums = np.stack([np.bincount(ids, cells[:, channel], minlength=vocabulary) for channel in range(3)], axis=1)
    return np.where(counts, sums / np.maximum(counts, 1), HIDDEN_GREY).astype(np.uint8)


def skeleton_picture(pose: np.ndarray, marked: np.ndarray | None = None) -> np.ndarray:
    """Draw one frame of a normalised pose.

    Args:
        pose: `[75, 3]`: x, y in shoulder widths around the shoulders' midpoint, confidence.
        marked: bool `[75]`, points drawn in the second colour.
    """
    image = np.full((SIDE, SIDE, 3), 18, np.uint8)
    # A signing space of 3.4 shoulder widths, the shoulders a good third from the top.
    place = np.rint((pose[:, :2] / 3.4 + (0.5, 0.38)) * SIDE * 16)  # 1/16 pixel, the precision of cv2's shift=4
    place = np.clip(np.nan_to_num(place), -(2**14), 2**14).astype(int)
    marked = np.zeros(len(pose), bool) if marked is None else marked
    for a, b in BONES:
        if pose[a, 2] > 0 and pose[b, 2] > 0:
            colour = (255, 150, 60) if marked[a] and marked[b] else (120, 200, 255)
            width = 1 if a >= LEFT_HAND.start else 2
            cv2.line(image, tuple(place[a]), tuple(place[b]), colour, width, cv2.LINE_AA, shift=4)
    return image
