"""Anti-aliased shapes on a picture: polygons, lines, discs, ellipses, tapered limbs.

Coordinates are float canvas pixels [N, 2], or fixed-point int32 ones from `fixed`, in sixteenths of a pixel.
"""

from __future__ import annotations

import cv2
import numpy as np

SHIFT = 4  # fractional bits of cv2 coordinates
ONE = 1 << SHIFT

Color = tuple[float, float, float]  # RGB 0..255


def fixed(points: np.ndarray) -> np.ndarray:
    """Convert float canvas pixels to cv2's fixed-point coordinates."""
    return np.round(points * ONE).astype(np.int32)


def fixed_between(a: np.ndarray, b: np.ndarray, first: float, last: float) -> tuple[list[int], list[int]]:
    """Return the ends of the part from `first` to `last` (shares) of the line between two fixed-point points."""
    way = b - a
    return (a + first * way).astype(np.int32).tolist(), (a + last * way).astype(np.int32).tolist()


def mix(a: Color, b: Color, amount: float) -> Color:
    """Return the colour between a (0) and b (1)."""
    return (a[0] + (b[0] - a[0]) * amount, a[1] + (b[1] - a[1]) * amount, a[2] + (b[2] - a[2]) * amount)


def scale(color: Color, factor: float) -> Color:
    """Return a darker or lighter shade."""
    return (min(color[0] * factor, 255.0), min(color[1] * factor, 255.0), min(color[2] * factor, 255.0))


def polygon(picture: np.ndarray, points: np.ndarray, color: Color) -> None:
    """Fill a closed outline of fixed-point points."""
    cv2.fillPoly(picture, [points], color, cv2.LINE_AA, SHIFT)


def contour(picture: np.ndarray, points: np.ndarray, color: Color, width: int, closed: bool = True) -> None:
    """Draw a line of whole canvas pixels along fixed-point points, with round joints and ends."""
    cv2.polylines(picture, [points], closed, color, width, cv2.LINE_AA, SHIFT)


def segment(picture: np.ndarray, a: list[int], b: list[int], color: Color, width: int) -> None:
    """Draw a round-ended line between two fixed-point points."""
    cv2.line(picture, a, b, color, width, cv2.LINE_AA, SHIFT)


def disc(picture: np.ndarray, center: np.ndarray, radius: float, color: Color) -> None:
    """Fill a circle."""
    point = (int(center[0] * ONE), int(center[1] * ONE))
    cv2.circle(picture, point, max(int(radius * ONE), 1), color, -1, cv2.LINE_AA, SHIFT)


def ellipse(
    picture: np.ndarray,
    center: np.ndarray,
    axes: tuple[float, float],
    color: Color,
    tilt: float = 0.0,
    span: tuple[int, int] = (0, 360),
    width: int = -1,
) -> None:
    """Fill an ellipse, or draw the arc `span` (degrees) of one with a line of `width` pixels; `tilt` in degrees."""
    point = (int(center[0] * ONE), int(center[1] * ONE))
    size = (max(int(axes[0] * ONE), 1), max(int(axes[1] * ONE), 1))
    cv2.ellipse(picture, point, size, tilt, span[0], span[1], color, width, cv2.LINE_AA, SHIFT)


def capsule(
    picture: np.ndarray,
    ends: tuple[np.ndarray, np.ndarray],
    radii: tuple[float, float],
    color: Color,
    round_start: bool = True,
) -> None:
    """Fill a tapered limb between two points; `round_start` False leaves its first end square."""
    a, b = ends
    axis = b - a
    length = float(np.hypot(axis[0], axis[1])) or 1.0
    side = np.array([-axis[1], axis[0]]) / length
    quad = np.array([a + side * radii[0], b + side * radii[1], b - side * radii[1], a - side * radii[0]])
    cv2.fillConvexPoly(picture, fixed(quad), color, cv2.LINE_AA, SHIFT)
    if round_start:
        disc(picture, a, radii[0], color)
    disc(picture, b, radii[1], color)


def convex_hull(points: np.ndarray) -> np.ndarray:
    """Return the convex hull of float points, as fixed-point ones."""
    return cv2.convexHull(fixed(points))


def shrink(picture: np.ndarray, side: int) -> np.ndarray:
    """Average a square picture down to `side` pixels."""
    if picture.shape[0] == side:
        return picture
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)


def add_noise(picture: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Add int16 noise to a uint8 picture, clipped to 0..255."""
    return cv2.add(picture, noise, dtype=cv2.CV_8U)


def blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Blur a picture with a Gaussian."""
    return cv2.GaussianBlur(picture, (0, 0), sigma)


def rectangle(picture: np.ndarray, low: tuple[int, int], high: tuple[int, int], color: Color) -> None:
    """Fill a rectangle between two corners in whole pixels."""
    cv2.rectangle(picture, low, high, color, -1)
