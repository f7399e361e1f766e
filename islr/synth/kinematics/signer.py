"""Signers and cameras: who signs, in what clothes, in front of what, and how one clip of theirs is framed.

A signer is a function of (seed, index) and nothing else; a clip's own variation comes from the clip's generator.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from islr.synth.difficulty import DIFFICULTIES, Difficulty
from islr.synth.drawing.backdrop import BACKDROPS
from islr.synth.drawing.canvas import Color
from islr.synth.drawing.face import HAIR_STYLES
from islr.synth.kinematics.body import Body
from islr.synth.kinematics.strokes import REST, Style

FRAME_RATES = (Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30))
LEFT_HANDED_EVERY, LEFT_HANDED_INDEX = (
    10,
    3,
)  # one signer in ten, so that a share of 10 % holds for every seed
_SIGNER_STREAM, _CLIP_STREAM, _DIFFICULTY_STREAM, _QUALITY_STREAM = 1, 2, 3, 4
VIEW_HEIGHT = 0.91  # metres from the top to the bottom of the picture: head to waist
VIEW_CENTER = -0.062  # height of the picture's middle above the shoulders
DISTANCE = 2.4  # metres from camera to signer
# The same for whole bodies, with room to jump and to reach up; degrees a camera may stand to the side.
_ACTION_VIEW_HEIGHT, _ACTION_VIEW_CENTER, _ACTION_DISTANCE, _ACTION_YAW = 2.25, -0.40, 4.6, 20.0

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

MEDIUM = DIFFICULTIES["medium"]
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


@dataclass(frozen=True)
class Camera:
    """A pinhole camera facing the signer."""

    yaw: float
    pitch: float
    roll: float
    scale: float
    shift: tuple[float, float]  # share of the picture
    center: float = VIEW_CENTER  # height of the picture's middle above the shoulders, metres
    distance: float = DISTANCE  # metres

    def project(self, points: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points [..., 3] in the body frame -> pixels [..., 2] (y down), depth [...], pixels per metre [...].

        Depth is in metres and larger when nearer.

        Args:
            size: side of the square picture in pixels.
        """
        matrix = _yaw_pitch(self.yaw, self.pitch)
        turned = (points - np.array([0.0, self.center, 0.0])) @ matrix.T
        per_metre = self.scale * size / VIEW_HEIGHT * self.distance / (self.distance - turned[..., 2])
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        x, y = turned[..., 0], -turned[..., 1]
        flat = np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1) * per_metre[..., None]
        return flat + size * (0.5 + np.array(self.shift)), turned[..., 2], per_metre

    def face_on(self, normals: np.ndarray) -> np.ndarray:
        """How far unit vectors [..., 3] point to the camera: -1 away, 1 towards it."""
        return normals @ _yaw_pitch(self.yaw, self.pitch)[2]


def _yaw_pitch(yaw: float, pitch: float) -> np.ndarray:
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    return np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]]) @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])


def whole_body(camera: Camera, rng: np.random.Generator) -> Camera:
    """The same camera further away, so that all of a moving person is in the picture."""
    return replace(
        camera,
        yaw=camera.yaw + np.radians(rng.uniform(-_ACTION_YAW, _ACTION_YAW)),
        scale=camera.scale * VIEW_HEIGHT / _ACTION_VIEW_HEIGHT,
        center=_ACTION_VIEW_CENTER,
        distance=_ACTION_DISTANCE,
    )


@dataclass(frozen=True)
class Signer:
    """One person: body, way of moving, looks, and the camera that usually films them."""

    index: int
    body: Body
    style: Style
    look: Look
    camera: Camera
    fps: Fraction


def generator(seed: int, *key: int) -> np.random.Generator:
    """The counter-based generator of one thing: a function of the seed and the thing's own numbers only."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *key))))


def clip_generator(seed: int, sign: int, signer: int, rep: int) -> np.random.Generator:
    """The generator of one clip, whatever worker renders it and whatever was rendered before."""
    return generator(seed, _CLIP_STREAM, sign, signer, rep)


def make_signer(
    seed: int, index: int, rates: tuple[Fraction, ...] = FRAME_RATES, difficulty: Difficulty = MEDIUM
) -> Signer:
    """The signer with this index in the world of this seed; the same person in every difficulty."""
    rng = generator(seed, _SIGNER_STREAM, index)
    tall = rng.uniform(0.94, 1.06)
    body = Body(
        shoulder=0.180 * tall * rng.uniform(0.93, 1.07),
        upper_arm=0.285 * tall * rng.uniform(0.96, 1.04),
        forearm=0.245 * tall * rng.uniform(0.96, 1.04),
        torso=0.500 * tall,
        neck=0.095 * rng.uniform(0.85, 1.12),
        head=rng.uniform(0.93, 1.06),
        hand=1.30 * tall * rng.uniform(0.95, 1.05),
    )
    style = Style(
        rest=str(rng.choice(list(REST))),
        tempo=rng.uniform(0.90, 1.20),
        amplitude=rng.uniform(0.85, 1.18),
        location_noise=rng.uniform(0.006, 0.012),
        handshape_noise=rng.uniform(2.0, 4.5),
        sway=rng.uniform(0.002, 0.005),
        left_handed=index % LEFT_HANDED_EVERY == LEFT_HANDED_INDEX,
    )
    camera = Camera(
        yaw=np.radians(rng.uniform(-9, 9)),
        pitch=np.radians(rng.uniform(-4, 5)),
        roll=np.radians(rng.uniform(-1.5, 1.5)),
        scale=rng.uniform(0.93, 1.05),
        shift=(rng.uniform(-0.03, 0.03), rng.uniform(-0.015, 0.02)),
    )
    fps = rates[int(rng.integers(len(rates)))]
    look = _look(rng)
    signer = Signer(index, body, style, _in_studio(look) if difficulty.studio else look, camera, fps)
    return _harder(signer, difficulty, generator(seed, _DIFFICULTY_STREAM, index))


def _look(rng: np.random.Generator) -> Look:
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


def _in_studio(look: Look) -> Look:
    """The same person before the studio's wall, in the clothes their hands stand out from best."""
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


def _harder(signer: Signer, difficulty: Difficulty, rng: np.random.Generator) -> Signer:
    """What a preset's factors make of a signer; the factors of `easy` and `medium` are all 1."""
    look, camera, style = signer.look, signer.camera, signer.style
    clothes = _rgb(rng.random(), rng.uniform(0.05, 0.75), rng.uniform(0.16, 0.85))
    exposure = rng.uniform(*difficulty.exposure)
    if difficulty.backdrops != BACKDROPS:
        look = replace(look, backdrop=str(rng.choice(difficulty.backdrops)))
    look = replace(
        look,
        clothes=clothes if difficulty.any_clothes else look.clothes,
        gain=(look.gain[0] * exposure, look.gain[1] * exposure, look.gain[2] * exposure),
        recording=Recording(
            noise=look.recording.noise * rng.uniform(*difficulty.noise),
            shutter=rng.uniform(*difficulty.shutter),
            resolution=rng.uniform(*difficulty.resolution),
        ),
    )
    right, down = rng.uniform(-1, 1, 2) * difficulty.shift
    camera = replace(
        camera,
        yaw=camera.yaw + np.radians(rng.uniform(-1, 1) * difficulty.yaw),
        pitch=camera.pitch + np.radians(rng.uniform(-1, 1) * difficulty.pitch),
        scale=camera.scale * rng.uniform(*difficulty.zoom),
        shift=(camera.shift[0] + right, camera.shift[1] + down),
    )
    style = replace(
        style,
        tempo=style.tempo * rng.uniform(*difficulty.tempo),
        handshape_noise=style.handshape_noise * rng.uniform(*difficulty.handshape_noise),
        location_noise=style.location_noise * rng.uniform(*difficulty.location_noise),
    )
    return replace(signer, look=look, camera=camera, style=style)


def clip_quality(difficulty: Difficulty, seed: int, *clip: int) -> int:
    """The x264 constant rate factor of one clip."""
    low, high = difficulty.quality
    return int(generator(seed, _QUALITY_STREAM, *clip).integers(low, high + 1))


def _luma(color: Color) -> float:
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]


def _distance(a: Color, b: Color) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))


def _rgb(hue: float, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return red * 255, green * 255, blue * 255


def _clothes(skin: Color, rng: np.random.Generator) -> Color:
    """A colour that hands stand out from, as signers choose theirs for filming."""
    while True:
        color = _rgb(rng.random(), rng.uniform(0.05, 0.75), rng.uniform(0.16, 0.85))
        if _distance(color, skin) > 105 and abs(_luma(color) - _luma(skin)) > 40:
            return color


def _backdrop_colors(skin: Color, rng: np.random.Generator) -> tuple[Color, Color]:
    while True:
        hue, saturation, value = rng.random(), rng.uniform(0.03, 0.45), rng.uniform(0.35, 0.95)
        first = _rgb(hue, saturation, value)
        second = _rgb(hue + rng.uniform(-0.06, 0.06), saturation, value * rng.uniform(0.78, 0.92))
        if min(_distance(first, skin), _distance(second, skin)) > 70:
            return first, second


def clip_camera(camera: Camera, rng: np.random.Generator) -> Camera:
    """The signer's camera as it stood for one clip."""
    return replace(
        camera,
        yaw=camera.yaw + np.radians(rng.normal(0, 1.2)),
        scale=camera.scale * rng.uniform(0.985, 1.015),
        shift=(camera.shift[0] + rng.normal(0, 0.006), camera.shift[1] + rng.normal(0, 0.004)),
    )


def clip_style(style: Style, rng: np.random.Generator) -> Style:
    """The signer's way of moving on one occasion."""
    return replace(
        style,
        tempo=style.tempo * rng.uniform(0.94, 1.06),
        amplitude=style.amplitude * rng.uniform(0.95, 1.05),
    )
