"""Resizing, cropping and colour jitter of a clip's frames, uint8 `[T, H, W, 3]`."""

import math

import cv2
import numpy as np
import torch


def resize_clip(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 `[T, H, W, 3]` to `size` = (height, width), rounding to uint8."""
    height, width = size
    if frames.shape[1:3] == (height, width):
        return frames
    shrinks = height * width < frames.shape[1] * frames.shape[2]
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    out = np.empty((len(frames), height, width, 3), np.uint8)
    for source, target in zip(frames, out, strict=True):
        cv2.resize(source, (width, height), dst=target, interpolation=mode)
    return out


def resize_short_side(frames: np.ndarray, size: int) -> np.ndarray:
    """Resize uint8 `[T, H, W, 3]` so that the shorter side is `size`, keeping the aspect ratio."""
    height, width = frames.shape[1:3]
    scale = size / min(height, width)
    return resize_clip(frames, (max(size, round(height * scale)), max(size, round(width * scale))))


def random_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw left, top, right, bottom of a random box in a picture, in pixels (Inception crop, 10 tries)."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            break
    else:
        h = w = min(height, width)
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return left, top, left + w, top + h


def random_resized_crop(
    frames: np.ndarray,
    size: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """Crop one random box, the same for all frames, and resize it to `size` x `size`."""
    left, top, right, bottom = random_box(frames.shape[1], frames.shape[2], scale, ratio, rng)
    return resize_clip(frames[:, top:bottom, left:right], (size, size))


def spatial_crop(frames: np.ndarray, size: int, place: float, short_side: int | None = None) -> np.ndarray:
    """Crop a square of `size` at `place` along the longer side (0 first, 0.5 centre, 1 last), centred along the other.

    Args:
        frames: uint8 `[T, H, W, 3]`.
        size: Side of the square.
        place: Along the longer side.
        short_side: Shorter side that the frames are resized to before; None = `size`.
    """
    frames = resize_short_side(frames, short_side or size)
    height, width = frames.shape[1:3]
    down, across = (place, 0.5) if height > width else (0.5, place)
    top, left = round((height - size) * down), round((width - size) * across)
    return frames[:, top : top + size, left : left + size]


def jitter_colours(
    frames: np.ndarray, strength: float | tuple[float, float, float], rng: np.random.Generator
) -> np.ndarray:
    """Scale brightness, contrast and saturation by factors in `1 +- strength`, the same for all frames."""
    spread = np.broadcast_to(strength, 3)
    brightness, contrast, saturation = rng.uniform(1 - spread, 1 + spread).astype(np.float32)
    pixels = frames.astype(np.float32) * brightness
    mean = pixels.mean()
    pixels = (pixels - mean) * contrast + mean
    grey = pixels.mean(axis=-1, keepdims=True)
    pixels = (pixels - grey) * saturation + grey
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def to_cthw(frames: np.ndarray) -> torch.Tensor:
    """Convert uint8 `[T, H, W, C]` to a contiguous uint8 tensor `[C, T, H, W]`."""
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(3, 0, 1, 2)))
