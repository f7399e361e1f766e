"""What is behind the signer: plain wall, gradient, panels, curtain, room, shelf or clutter. Drawn once per clip."""

from __future__ import annotations

import numpy as np

from islr.synth.drawing.canvas import ONE, Color, blur, ellipse, rectangle, segment

BACKDROPS = ("plain", "gradient", "panels", "curtain", "room", "shelf")
CLUTTERED = ("clutter",)
_THINGS = 60


def paint_backdrop(kind: str, colors: tuple[Color, Color], seed: int, side: int) -> np.ndarray:
    """Return a backdrop of `side` pixels, uint8 [side, side, 3]; a function of its arguments."""
    rng = np.random.Generator(np.random.Philox(seed))
    first, second = np.array(colors[0]), np.array(colors[1])
    across = np.zeros(side)
    down = np.linspace(0, 1, side)
    if kind == "plain":
        down = np.zeros(side)
    elif kind == "curtain":
        folds = np.linspace(0, rng.uniform(40, 70), side) + 1.5 * np.sin(np.linspace(0, 9, side))
        across, down = 0.5 + 0.5 * np.sin(folds), np.zeros(side)
    amount = (across[None, :] + down[:, None])[..., None]
    picture = np.clip(first + (second - first) * amount, 0, 255).astype(np.uint8)
    if kind == "panels":
        _panels(picture, second, rng)
    elif kind == "room":
        _room(picture, first, second, rng)
    elif kind == "shelf":
        picture = _shelf(picture, second, rng)
    elif kind == "clutter":
        picture = _clutter(picture, rng)
    return picture


def _shade(color: np.ndarray, factor: float | np.ndarray) -> Color:
    red, green, blue = np.clip(color * factor, 0, 255).tolist()
    return red, green, blue


def _panels(picture: np.ndarray, color: np.ndarray, rng: np.random.Generator) -> None:
    side = picture.shape[0]
    step = side // int(rng.integers(3, 6))
    for x in range(step // 2, side, step):
        segment(picture, [x * ONE, 0], [x * ONE, side * ONE], _shade(color, 0.9), max(side // 90, 1))


def _room(picture: np.ndarray, wall: np.ndarray, color: np.ndarray, rng: np.random.Generator) -> None:
    """Paint a lower wall and a picture frame."""
    side = picture.shape[0]
    picture[int(side * rng.uniform(0.55, 0.75)) :] = _shade(color, 0.72)
    x, y, width, height = (int(share * side) for share in (rng.uniform(0.02, 0.7), 0.06, 0.26, 0.24))
    inset = max(side // 50, 1)
    rectangle(picture, (x, y), (x + width, y + height), _shade(color, 0.6))
    rectangle(picture, (x + inset, y + inset), (x + width - inset, y + height - inset), _shade(wall, 1.1))


def _shelf(picture: np.ndarray, color: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paint two shelves of books, out of focus."""
    side = picture.shape[0]
    for level in (0.16, 0.38):
        y = int(side * level)
        for x in range(0, side, max(side // 24, 2)):
            height = int(side * rng.uniform(0.06, 0.12))
            book = _shade(color, rng.uniform(0.55, 1.1) * rng.uniform(0.85, 1.1, 3))
            rectangle(picture, (x, y - height), (x + max(side // 30, 1), y), book)
        segment(picture, [0, y * ONE], [side * ONE, y * ONE], _shade(color, 0.5), max(side // 70, 1))
    return blur(picture, side / 110)


def _clutter(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paint things of all sizes and colours, also of skin's, slightly out of focus."""
    side = picture.shape[0]
    for _ in range(_THINGS):
        color = _shade(rng.uniform(30, 230, 3), 1.0)
        center, reach = rng.uniform(0, side, 2), side * rng.uniform(0.02, 0.14, 2)
        if rng.random() < 0.5:
            ellipse(picture, center, (reach[0], reach[1]), color, float(rng.uniform(0, 180)))
        else:
            low, high = (center - reach).astype(int).tolist(), (center + reach).astype(int).tolist()
            rectangle(picture, (low[0], low[1]), (high[0], high[1]), color)
    return blur(picture, side / 150)
