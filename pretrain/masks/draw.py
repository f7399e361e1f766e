"""Token masks. Each is drawn for one clip, from the generator of its view."""

import math
from collections.abc import Sequence

import numpy as np

TRIES = 100  # cuboids tried before a mask counts as full
ASPECTS = (0.3, 1 / 0.3)  # height over width of a cuboid
AREA_RANGE = 5  # ratio of the largest cuboid's area to the smallest's
BLOCK_TRIES = 10  # rectangles tried before a mask counts as full
STILL_SHARE = 0.5  # share of weighted cuboids whose place is drawn uniformly


def cube_mask(window: tuple[int, int, int], ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Mask random cuboids until the next one would exceed the ratio (MaskFeat, arXiv 2112.09133 section 4.1).

    As in the published code, which the paper does not spell out: the count differs from clip to clip (never above
    the target), and cuboids lie wholly inside and never span the full height or width, so that the middle is masked
    far more often than the edges.

    Args:
        window: Cells along time, height, width.
        ratio: Share of the cells to mask.
        rng: Source of all randomness.

    Returns:
        bool `window`, true = masked.
    """
    mask = np.zeros(window, dtype=bool)
    target = round(mask.size * ratio)
    while (room := target - int(mask.sum())) > 0:
        for _ in range(TRIES):
            cuboid = _inner_cuboid(window, rng)
            if cuboid is not None and 0 < np.count_nonzero(~mask[cuboid]) <= room:
                mask[cuboid] = True
                break
        else:
            break
    return mask


def exact_cube_mask(window: tuple[int, int, int], ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Mask random cuboids, exactly `round(cells * ratio)` cells of every clip.

    Unlike in `cube_mask`, cuboids may extend beyond the edges, so that middle and edges are masked about equally often,
    and the last one is thinned to the count. All clips of a batch then have the same number of targets.

    Args:
        window: Cells along time, height, width.
        ratio: Share of the cells to mask.
        rng: Source of all randomness.

    Returns:
        bool `window`, true = masked.
    """
    mask = np.zeros(window, dtype=bool)
    target = round(mask.size * ratio)
    while (room := target - int(mask.sum())) > 0:
        height, width = _cuboid_sides(window, rng)
        sides = (int(rng.integers(1, window[0], endpoint=True)), height, width)
        starts = [int(rng.integers(1 - side, cells)) for side, cells in zip(sides, window, strict=True)]
        _hide_cuboid(mask, starts, sides, room, rng)
    return mask


def weighted_cube_mask(weight: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Mask cuboids over salient cells, exactly `round(cells * ratio)` cells of every clip.

    Most of a signing picture is static, and static content can be copied from visible moments. The sides of the
    cuboids are those of `cube_mask`. Each cuboid covers a cell drawn from those still visible: uniformly for a share of
    `STILL_SHARE`, otherwise with a probability proportional to its saliency. Our variant, not in the paper.

    Args:
        weight: Saliency of each cell (time, height, width), not negative: its motion, or its share of hands. If all
            are 0, cuboids are placed uniformly.
        ratio: Share of the cells to mask.
        rng: Source of all randomness.

    Returns:
        bool of the weight's shape, true = masked.
    """
    window = (weight.shape[0], weight.shape[1], weight.shape[2])
    mask = np.zeros(window, dtype=bool)
    target = round(mask.size * ratio)
    while (room := target - int(mask.sum())) > 0:
        visible = np.flatnonzero(~mask)
        saliency = weight.flat[visible]
        probability = np.full(len(visible), 1 / len(visible))
        if saliency.any():
            probability = STILL_SHARE * probability + (1 - STILL_SHARE) * saliency / saliency.sum()
        cell = np.unravel_index(rng.choice(visible, p=probability), window)
        height, width = _cuboid_sides(window, rng)
        sides = (int(rng.integers(1, window[0], endpoint=True)), max(height, 1), max(width, 1))
        starts = [int(place) - int(rng.integers(side)) for place, side in zip(cell, sides, strict=True)]
        _hide_cuboid(mask, starts, sides, room, rng)
    return mask


def _hide_cuboid(
    mask: np.ndarray, starts: Sequence[int], sides: Sequence[int], room: int, rng: np.random.Generator
) -> None:
    """Mask the part of a cuboid inside the window, randomly thinned to `room` new cells; in place."""
    cuboid = np.zeros(mask.shape, dtype=bool)
    cuboid[tuple(slice(max(start, 0), start + side) for start, side in zip(starts, sides, strict=True))] = True
    fresh = np.flatnonzero(cuboid & ~mask)
    mask.flat[fresh if len(fresh) <= room else rng.choice(fresh, room, replace=False)] = True


def _cuboid_sides(window: tuple[int, int, int], rng: np.random.Generator) -> tuple[int, int]:
    """Draw height and width of a cuboid: area uniform, aspect log-uniform."""
    largest = window[1] * window[2]
    area = rng.uniform(largest // AREA_RANGE, largest)
    aspect = math.exp(rng.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
    return round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))


def _inner_cuboid(window: tuple[int, int, int], rng: np.random.Generator) -> tuple[slice, ...] | None:
    """Draw a cuboid inside the window; None if the sides drawn do not fit."""
    height, width = _cuboid_sides(window, rng)
    duration = int(rng.integers(1, window[0], endpoint=True))
    if height >= window[1] or width >= window[2]:
        return None
    top = int(rng.integers(0, window[1] - height, endpoint=True))
    left = int(rng.integers(0, window[2] - width, endpoint=True))
    first = int(rng.integers(0, window[0] - duration, endpoint=True))
    return slice(first, first + duration), slice(top, top + height), slice(left, left + width)


def tube_mask(window: tuple[int, int, int], ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Mask the same random positions at all times (VideoMAE, arXiv 2203.12602 section 3.3).

    As published, the count per moment is rounded down.

    Args:
        window: Cells along time, height, width.
        ratio: Share of the positions to mask; the count is the same for every clip.
        rng: Source of all randomness.

    Returns:
        bool `window`, true = masked.
    """
    places = window[1] * window[2]
    hidden = np.arange(places) >= places - int(places * ratio)
    rng.shuffle(hidden)
    return np.broadcast_to(hidden.reshape(window[1:]), window).copy()


def motion_tube_mask(
    window: tuple[int, int, int], ratio: float, motion: np.ndarray, guidance: float, rng: np.random.Generator
) -> np.ndarray:
    """Mask high-motion tubes, with noise; our variant, not in the paper.

    Args:
        window: As in `tube_mask`.
        ratio: As in `tube_mask`.
        motion: Motion at each position, `window[1:]`; only its rank counts.
        guidance: Weight of the motion's rank (0..1) against uniform noise; 0 = uniform.
        rng: Source of all randomness.
    """
    count = int(motion.size * ratio)
    hidden = _top_ranked(motion.reshape(-1, 1), count, guidance, rng).reshape(window[1:])
    return np.broadcast_to(hidden, window).copy()


def weighted_tube_mask(
    window: tuple[int, int, int], ratio: float, weight: np.ndarray, guidance: float, rng: np.random.Generator
) -> np.ndarray:
    """Mask salient tubes more often than others; our variant, not in the paper.

    The visible positions are drawn one by one, with a probability proportional to exp(-guidance * weight).

    Args:
        window: As in `tube_mask`.
        ratio: As in `tube_mask`.
        weight: Saliency of each position, 0..1, `window[1:]`.
        guidance: 0 = uniform; 1 = a position of saliency 1 is e times less likely to stay visible than one of 0.
        rng: Source of all randomness.
    """
    count = int(weight.size * ratio)
    # Gumbel noise makes the top k a draw without replacement (arXiv 1903.06059).
    score = rng.gumbel(size=weight.size) - guidance * weight.ravel()
    hidden = np.zeros(weight.size, dtype=bool)
    hidden[np.argsort(score)[:count]] = True
    return np.broadcast_to(hidden.reshape(window[1:]), window).copy()


def block_mask(
    window: tuple[int, int], count: int, smallest: float, rng: np.random.Generator, largest: float = math.inf
) -> np.ndarray:
    """Mask random rectangles until `count` cells are masked or none fits (BEiT, arXiv 2106.08254 algorithm 1).

    As published: seldom fewer than `count` cells and never more; no rectangle spans the full height or width.

    Args:
        window: Cells along height, width.
        count: Cells to mask.
        smallest: Cells of the smallest rectangle drawn, except where fewer are left to mask.
        rng: Source of all randomness.
        largest: Cells of the largest.

    Returns:
        bool `window`, true = masked.
    """
    mask = np.zeros(window, dtype=bool)
    while (left := count - int(mask.sum())) > 0:
        room = min(left, largest)
        for _ in range(BLOCK_TRIES):
            block = _block(window, smallest, room, rng)
            if block is not None and 0 < np.count_nonzero(~mask[block]) <= room:
                mask[block] = True
                break
        else:
            break
    return mask


def _block(
    window: tuple[int, int], smallest: float, largest: float, rng: np.random.Generator
) -> tuple[slice, slice] | None:
    """Draw a rectangle inside the window, area uniform, aspect log-uniform; None if its sides do not fit."""
    area = smallest + (largest - smallest) * rng.uniform(0.0, 1.0)  # the ends may be in either order
    aspect = math.exp(rng.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if height >= window[0] or width >= window[1]:
        return None
    top = int(rng.integers(0, window[0] - height, endpoint=True))
    left = int(rng.integers(0, window[1] - width, endpoint=True))
    return slice(top, top + height), slice(left, left + width)


def block_tube_mask(
    plane: np.ndarray, moments: int, shares: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Mask the same cells over a run of moments that may wrap around the clip's end (BEVT, arXiv 2112.01529).

    Args:
        plane: bool `[h, w]`, true = masked.
        moments: Length of the clip.
        shares: Shortest and longest run over the clip's length.
        rng: Source of all randomness.

    Returns:
        bool `[moments, h, w]`.
    """
    shortest = max(int(shares[0] * moments), 1)
    longest = max(int(shares[1] * moments), shortest)
    start = int(rng.integers(0, moments - 1, endpoint=True))
    length = int(rng.integers(shortest, longest, endpoint=True))
    mask = np.zeros((moments, *plane.shape), dtype=bool)
    mask[(start + np.arange(length)) % moments] = plane
    return mask


def motion_mask(motion: np.ndarray, ratio: float, guidance: float, rng: np.random.Generator) -> np.ndarray:
    """Mask high-motion tokens, with noise.

    Motion counts by its rank among the moments of the same part. Normalised by the clip's maximum instead, one jerk
    would outweigh all other motion, and a hand in constant motion would never be visible.

    Args:
        motion: Motion `[T, P]` of moments and parts.
        ratio: Share of the tokens to mask; the count is exact.
        guidance: Weight of the motion's rank (0..1) against uniform noise; 0 = uniform.
        rng: Source of all randomness.

    Returns:
        bool `[T, P]`, true = masked.
    """
    return _top_ranked(motion, round(motion.size * ratio), guidance, rng)


def _top_ranked(motion: np.ndarray, count: int, guidance: float, rng: np.random.Generator) -> np.ndarray:
    """Return true for the `count` cells of `[K, P]` with the highest sum of noise and weighted rank in their column."""
    score = rng.random(motion.shape)
    # Ties are ranked at random.
    order = np.lexsort((rng.random(motion.shape), motion), axis=0)
    ranks = np.argsort(order, axis=0) / max(len(motion) - 1, 1)
    score += guidance * ranks
    mask = np.zeros(motion.shape, dtype=bool)
    mask.flat[np.argsort(score, axis=None)[score.size - count :]] = True
    return mask


def part_tube_mask(moments: int, parts: int, ratio: float, shortest: int, rng: np.random.Generator) -> np.ndarray:
    """Mask single parts for at least `shortest` moments in a row, exactly `round(moments * parts * ratio)` tokens.

    A part hidden for a frame or two is found on the line between its neighbours; one hidden for longer is not.

    Args:
        moments: T, at least twice `shortest`.
        parts: P.
        ratio: Share of the tokens to mask, at least `shortest` of them.
        shortest: Length of a tube; neighbouring tubes of one part grow together.
        rng: Source of all randomness.

    Returns:
        bool `[T, P]`, true = masked.
    """
    mask = np.zeros((moments, parts), dtype=bool)
    target = round(mask.size * ratio)
    while (room := target - int(mask.sum())) > 0:
        visible = np.lib.stride_tricks.sliding_window_view(~mask, shortest, axis=0).sum(axis=2)  # [T - L + 1, P]
        fitting = np.argwhere((visible > 0) & (visible <= room))
        if len(fitting):
            start, part = fitting[rng.integers(len(fitting))]
            mask[start : start + shortest, part] = True
        else:  # each part is hidden for the whole clip or not at all, and less than a tube is left
            part = rng.choice(np.flatnonzero(mask[0]))
            mask[: shortest - room, part] = False
    return mask
