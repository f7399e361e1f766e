"""How a signer looks: skin, hair, clothes, backdrop, light, and the noise of the camera."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace

import numpy as np

from islr.synth.drawing.backdrop import BACKDROPS
from islr.synth.drawing.canvas import Color
from islr.synth.drawing.face import HAIR_STYLES

# Skin tones from light to dark as (base, palm side).
_SKIN: tuple[tuple[Color, Color], ...] = (
    ((247, 211, 184), (252, 214, 196)),
    ((238, 193, 160), (247, 202, 180)),
    ((224, 172, 132), (238, 188, 160)),
    ((205, 150, 108), (228, 174, 142)),
    ((176, 122, 82), (212, 158, 124)),
    ((146, 98, 64), (198, 146, 114)),
    ((116, 76, 50), (182, 132, 104)),
    ((90, 58, 40), (166, 120, 96)),
)


_HAIR: tuple[Color, ...] = (
    (28, 22, 20),
    (52, 34, 24),
    (84, 52, 30),
    (134, 92, 48),
    (196, 160, 96),
    (120, 46, 26),
    (150, 146, 142),
)


NECKLINES = ("round", "v", "collar")


_STUDIO_WALL: Color = (92, 116, 148)


_STUDIO_NOISE = 1.5


_STUDIO_CLOTHES: tuple[Color, Color] = ((38, 38, 44), (214, 212, 206))


@dataclass(frozen=True)
class Recording:
    """What camera and file do to the pictures of one signer.

    Attributes:
        noise: Standard deviation of the sensor noise, 8-bit levels.
        shutter: Share of the time between two frames in which the picture smears; 0 is sharp.
        resolution: Share of the file's lines that the camera resolves.
    """

    noise: float
    shutter: float = 0.0
    resolution: float = 1.0


@dataclass(frozen=True)
class Look:
    """Everything about a signer that shows but does not move. Colours are RGB 0..255."""

    skin: Color
    palm: Color
    hair: Color
    hair_style: str
    clothes: Color
    neckline: str
    sleeve: float  # share of the forearm that is covered
    stripes: bool
    glasses: bool
    backdrop: str
    backdrop_colors: tuple[Color, Color]
    backdrop_seed: int
    light: tuple[float, float]  # direction the light comes from, picture x and y
    shading: float  # 0 flat .. 1 strong
    gain: tuple[float, float, float]  # exposure and colour temperature
    recording: Recording


def random_look(rng: np.random.Generator) -> Look:
    skin, palm = _SKIN[int(rng.integers(len(_SKIN)))]
    clothes = _clothes(skin, rng)
    backdrop = _backdrop_colors(skin, rng)
    warm = rng.uniform(-0.05, 0.05)
    exposure = rng.uniform(0.86, 1.06)
    return Look(
        skin=skin,
        palm=palm,
        hair=_HAIR[int(rng.integers(len(_HAIR)))],
        hair_style=str(rng.choice(HAIR_STYLES)),
        clothes=clothes,
        neckline=str(rng.choice(NECKLINES)),
        sleeve=float(rng.choice([0.0, 0.0, 0.45, 0.93])),
        stripes=bool(rng.random() < 0.2),
        glasses=bool(rng.random() < 0.25),
        backdrop=str(rng.choice(BACKDROPS)),
        backdrop_colors=backdrop,
        backdrop_seed=int(rng.integers(2**31)),
        light=(float(rng.uniform(-0.9, 0.9)), float(rng.uniform(-1.0, -0.4))),
        shading=rng.uniform(0.45, 0.9),
        gain=(exposure * (1 + warm), exposure, exposure * (1 - warm)),
        recording=Recording(noise=rng.uniform(1.0, 3.5)),
    )


def in_studio(look: Look) -> Look:
    """Return the same person before the studio's wall, in the clothes their hands stand out from best."""
    clothes = max(_STUDIO_CLOTHES, key=lambda color: abs(_luma(color) - _luma(look.skin)))
    exposure = sum(look.gain) / 3
    return replace(
        look,
        clothes=clothes,
        sleeve=0.93,
        stripes=False,
        backdrop="plain",
        backdrop_colors=(_STUDIO_WALL, _STUDIO_WALL),
        gain=(exposure, exposure, exposure),
        recording=Recording(noise=min(look.recording.noise, _STUDIO_NOISE)),
    )


def _luma(color: Color) -> float:
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]


def _distance(a: Color, b: Color) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))


def from_hsv(hue: float, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return red * 255, green * 255, blue * 255


def _clothes(skin: Color, rng: np.random.Generator) -> Color:
    """Return a colour that hands stand out from, as signers choose theirs for filming."""
    while True:
        color = from_hsv(rng.random(), rng.uniform(0.05, 0.75), rng.uniform(0.16, 0.85))
        if _distance(color, skin) > 105 and abs(_luma(color) - _luma(skin)) > 40:
            return color


def _backdrop_colors(skin: Color, rng: np.random.Generator) -> tuple[Color, Color]:
    while True:
        hue, saturation, value = rng.random(), rng.uniform(0.03, 0.45), rng.uniform(0.35, 0.95)
        first = from_hsv(hue, saturation, value)
        second = from_hsv(hue + rng.uniform(-0.06, 0.06), saturation, value * rng.uniform(0.78, 0.92))
        if min(_distance(first, skin), _distance(second, skin)) > 70:
            return first, second
