"""Signers and cameras: who signs, in what clothes, in front of what, and how one clip of theirs is framed.

A signer is a function of (seed, index) and nothing else; a clip's own variation comes from the clip's generator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from islr.synth.difficulty import DIFFICULTIES, Difficulty
from islr.synth.drawing.backdrop import BACKDROPS
from islr.synth.drawing.camera import Camera
from islr.synth.drawing.look import Look, Recording, from_hsv, in_studio, random_look
from islr.synth.kinematics.body import Body
from islr.synth.kinematics.strokes import REST, Style

FRAME_RATES = (Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30))
LEFT_HANDED_EVERY, LEFT_HANDED_INDEX = 10, 3  # one signer in ten, so that a share of 10 % holds for every seed
_SIGNER_STREAM, _CLIP_STREAM, _DIFFICULTY_STREAM, _QUALITY_STREAM = 1, 2, 3, 4
MEDIUM = DIFFICULTIES["medium"]


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
    """Return the counter-based generator of one thing: a function of the seed and the thing's own numbers only."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *key))))


def clip_generator(seed: int, sign: int, signer: int, rep: int) -> np.random.Generator:
    """Return the generator of one clip, whatever worker renders it and whatever was rendered before."""
    return generator(seed, _CLIP_STREAM, sign, signer, rep)


def make_signer(
    seed: int, index: int, rates: tuple[Fraction, ...] = FRAME_RATES, difficulty: Difficulty = MEDIUM
) -> Signer:
    """Return the signer with this index in the world of this seed; the same person in every difficulty."""
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
    look = random_look(rng)
    signer = Signer(index, body, style, in_studio(look) if difficulty.studio else look, camera, fps)
    return _harder(signer, difficulty, generator(seed, _DIFFICULTY_STREAM, index))


def _harder(signer: Signer, difficulty: Difficulty, rng: np.random.Generator) -> Signer:
    """Return what a preset's factors make of a signer; the factors of `easy` and `medium` are all 1."""
    look, camera, style = signer.look, signer.camera, signer.style
    clothes = from_hsv(rng.random(), rng.uniform(0.05, 0.75), rng.uniform(0.16, 0.85))
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
    """Return the x264 constant rate factor of one clip."""
    low, high = difficulty.quality
    return int(generator(seed, _QUALITY_STREAM, *clip).integers(low, high + 1))


def clip_camera(camera: Camera, rng: np.random.Generator) -> Camera:
    """Return the signer's camera as it stood for one clip."""
    return replace(
        camera,
        yaw=camera.yaw + np.radians(rng.normal(0, 1.2)),
        scale=camera.scale * rng.uniform(0.985, 1.015),
        shift=(camera.shift[0] + rng.normal(0, 0.006), camera.shift[1] + rng.normal(0, 0.004)),
    )


def clip_style(style: Style, rng: np.random.Generator) -> Style:
    """Return the signer's way of moving on one occasion."""
    return replace(
        style,
        tempo=style.tempo * rng.uniform(0.94, 1.06),
        amplitude=style.amplitude * rng.uniform(0.95, 1.05),
    )
