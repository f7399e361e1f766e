"""Which tokens a recipe hides. Every mask is drawn for one clip from the generator of its view."""

import math
from collections.abc import Sequence

import numpy as np

TRIES = 100  # cuboids tried before a mask is taken as full
ASPECTS = (0.3, 1 / 0.3)  # height over width of a cuboid
AREA_RANGE = 5  # the largest cuboid over the smallest
BLOCK_TRIES = 10  # rectangles tried before a mask is taken as full
STILL_SHARE = 0.5  # of the places of weighted cuboids are drawn from all cells alike


def cube_mask(window: tuple[int, int, int], ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Hide random cuboids until the next would go beyond the ratio (MaskFeat, arXiv 2112.09133 section 4.1).

    As published, and unlike a plain reading of it: the count differs from clip to clip (never above the
    target), cuboids lie wholly inside and never span the full height or width, so the middle is hidden far
    more often than the edges.

    Args:
        window: Cells along time, height, width.
        ratio: Share of the cells to hide.
        rng: Source of all choices.

    Returns:
        bool `window`, true = hidden.
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
    """Hide random cuboids, exactly `round(cells * ratio)` cells of every clip.

    Unlike `cube_mask`, cuboids may stick out at the edges, which hides the middle and the edges about equally
    often, and the last one is thinned to the count. All clips of a batch then have the same number of
    targets.

    Args:
        window: Cells along time, height, width.
        ratio: Share of the cells to hide.
        rng: Source of all choices.

    Returns:
        bool `window`, true = hidden.
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
    """Hide cuboids over places that matter, exactly `round(cells * ratio)` cells of every clip.

    Most of a signer's picture stands still, and what stands still can be copied from the visible moments. The sides
    of the cuboids are those of `cube_mask`; each lies somewhere over a cell that is drawn among those not hidden yet,
    for a share of `STILL_SHARE` from all alike and else with a probability proportional to their weight.

    Args:
        weight: What each cell (time, height, width) counts, not negative: its movement, or its share of hands. All 0
            puts cuboids anywhere.
        ratio: Share of the cells to hide.
        rng: Source of all choices.

    Returns:
        bool of the weight's shape, true = hidden.
    """
    window = (weight.shape[0], weight.shape[1], weight.shape[2])
    mask = np.zeros(window, dtype=bool)
    target = round(mask.size * ratio)
    while (room := target - int(mask.sum())) > 0:
        visible = np.flatnonzero(~mask)
        matter = weight.flat[visible]
        chance = np.full(len(visible), 1 / len(visible))
        if matter.any():
            chance = STILL_SHARE * chance + (1 - STILL_SHARE) * matter / matter.sum()
        cell = np.unravel_index(rng.choice(visible, p=chance), window)
        height, width = _cuboid_sides(window, rng)
        sides = (int(rng.integers(1, window[0], endpoint=True)), max(height, 1), max(width, 1))
        starts = [int(place) - int(rng.integers(side)) for place, side in zip(cell, sides, strict=True)]
        _hide_cuboid(mask, starts, sides, room, rng)
    return mask


def _hide_cuboid(
    mask: np.ndarray, starts: Sequence[int], sides: Sequence[int], room: int, rng: np.random.Generator
) -> None:
    """Hide the part of a cuboid that lies inside, thinned by chance to `room` fresh cells; in place."""
    cuboid = np.zeros(mask.shape, dtype=bool)
    cuboid[tuple(slice(max(start, 0), start + side) for start, side in zip(starts, sides, strict=True))] = True
    fresh = np.flatnonzero(cuboid & ~mask)
    mask.flat[fresh if len(fresh) <= room else rng.choice(fresh, room, replace=False)] = True


def _cuboid_sides(window: tuple[int, int, int], rng: np.random.Generator) -> tuple[int, int]:
    """Height and width of a cuboid: area uniform, aspect log-uniform."""
    largest = window[1] * window[2]
    area = rng.uniform(largest // AREA_RANGE, largest)
    aspect = math.exp(rng.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
    return round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))


def _inner_cuboid(window: tuple[int, int, int], rng: np.random.Generator) -> tuple[slice, ...] | None:
    """A cuboid wholly inside the window, or None when the sides drawn do not fit."""
    height, width = _cuboid_sides(window, rng)
    duration = int(rng.integers(1, window[0], endpoint=True))
    if height >= window[1] or width >= window[2]:
        return None
    top = int(rng.integers(0, window[1] - height, endpoint=True))
    left = int(rng.integers(0, window[2] - width, endpoint=True))
    first = int(rng.integers(0, window[0] - duration, endpoint=True))
    return slice(first, first + duration), slice(top, top + height), slice(left, left + width)


def tube_mask(window: tuple[int, int, int], ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Hide the same random places at all times (VideoMAE, arXiv 2203.12602 section 3.3).

    As published, the count of a moment is rounded down.

    Args:
        window: Cells along time, height, width.
        ratio: Share of the places to hide; the count is the same for every clip.
        rng: Source of all choices.

    Returns:
        bool `window`, true = hidden.
    """
    places = window[1] * window[2]
    hidden = np.arange(places) >= places - int(places * ratio)
    rng.shuffle(hidden)
    return np.broadcast_to(hidden.reshape(window[1:]), window).copy()


def motion_tube_mask(
    window: tuple[int, int, int], ratio: float, motion: np.ndarray, guidance: float, rng: np.random.Generator
) -> np.ndarray:
    """As `tube_mask`, but hide the places that move most, up to chance; ours.

    Args:
        window: As in `tube_mask`.
        ratio: As in `tube_mask`.
        motion: Amount of movement at each place, `window[1:]`; counts by its rank.
        guidance: Weight of movement (rank, 0..1) against uniform chance; 0 = all chance.
        rng: Source of all choices.
    """
    count = int(motion.size * ratio)
    hidden = _guided(motion.reshape(-1, 1), count, guidance, rng).reshape(window[1:])
    return np.broadcast_to(hidden, window).copy()


def weighted_tube_mask(
    window: tuple[int, int, int], ratio: float, weight: np.ndarray, guidance: float, rng: np.random.Generator
) -> np.ndarray:
    """As `tube_mask`, but places that matter are seldom left visible; ours.

    The visible places are drawn one by one, each with a chance proportional to exp(-guidance * weight).

    Args:
        window: As in `tube_mask`.
        ratio: As in `tube_mask`.
        weight: What each place counts, 0..1, `window[1:]`.
        guidance: 0 = all chance; 1 = a place of weight 1 is e times less likely to be drawn than one of weight 0.
        rng: Source of all choices.
    """
    count = int(weight.size * ratio)
    # Noise of this distribution makes the highest sums a draw without replacement (Gumbel-top-k, arXiv 1903.06059).
    score = rng.gumbel(size=weight.size) - guidance * weight.ravel()
    hidden = np.zeros(weight.size, dtype=bool)
    hidden[np.argsort(score)[:count]] = True
    return np.broadcast_to(hidden.reshape(window[1:]), window).copy()


def block_mask(
    window: tuple[int, int], count: int, smallest: float, rng: np.random.Generator, largest: float = math.inf
) -> np.ndarray:
    """Hide random rectangles until `count` cells are hidden or none fits any more (BEiT, arXiv 2106.08254 algorithm 1).

    As published: seldom fewer than `count` cells and never more; no rectangle spans the full height or width.

    Args:
        window: Cells along height, width.
        count: Cells to hide.
        smallest: Cells of the smallest rectangle drawn, except where fewer are left to hide.
        rng: Source of all choices.
        largest: Cells of the largest.

    Returns:
        bool `window`, true = hidden.
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
    """A rectangle inside the window, area uniform, aspect log-uniform; None when the sides drawn do not fit."""
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
    """Hide the same cells at a run of moments that may wrap around the clip's end (BEVT, arXiv 2112.01529).

    Args:
        plane: bool `[h, w]`, true = hidden.
        moments: Length of the clip.
        shares: Shortest and longest run over the clip's length.
        rng: Source of all choices.

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
    """Hide the tokens that move most, up to chance.

    Movement counts by its rank among the moments of the same part. Divided by the clip's largest instead, one jerk
    would hide the rest of the movement, and a hand that keeps moving would never be seen at all.

    Args:
        motion: Amount of movement, `[T, P]` moments and parts.
        ratio: Share of the tokens to hide; the count is exact.
        guidance: Weight of movement (rank, 0..1) against uniform chance; 0 = all chance.
        rng: Source of all choices.

    Returns:
        bool `[T, P]`, true = hidden.
    """
    return _guided(motion, round(motion.size * ratio), guidance, rng)


def _guided(motion: np.ndarray, count: int, guidance: float, rng: np.random.Generator) -> np.ndarray:
    """True for the `count` cells of `[K, P]` with the highest sum of chance and weighted rank within their column."""
    score = rng.random(motion.shape)
    # Equal movements are ranked by chance.
    order = np.lexsort((rng.random(motion.shape), motion), axis=0)
    ranks = np.argsort(order, axis=0) / max(len(motion) - 1, 1)
    score += guidance * ranks
    mask = np.zeros(motion.shape, dtype=bool)
    mask.flat[np.argsort(score, axis=None)[score.size - count :]] = True
    return mask
