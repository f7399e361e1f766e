"""RandAugment of a clip (Cubuk et al., arXiv 1909.13719): the same operations for all its frames, and no mirrors.

The form is timm's `rand-m7-n4-mstd0.5-inc1`, which the recipes of MViT, MaskFeat and VideoMAE name: `layers` operations
drawn with replacement, each applied with `probability` at its own strength around `magnitude` (0 to 10). All frames get
the same operations at the same strengths, in the same direction.

The operations are Pillow's, called as timm calls them. timm's own wrappers are not imported: they would save ten lines
and double the seconds that reading a configuration takes, because `timm.data` imports torchvision and every model.

Mirrors are left out: the dominant hand and the direction of a movement are part of a sign's form, so a mirrored sign is
another clip, or another sign. Small rotations, shears and shifts stay, as published: like a camera, they move body and
hands together and keep the relations between them.

Deviation: `autocontrast`, `equalize` and `contrast` use the histogram of all frames, where the originals use each
frame's own, which makes a still background flicker when a hand enters the picture. And `posterize` keeps one bit at
full strength, where the originals keep none and return a black picture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from pydantic import Field, field_validator

from islr.config import Config

STRONGEST = 10.0  # the magnitude of an operation's largest effect
FILL = (128, 128, 128)  # colour of what an affine map moves into the picture

Operation = Literal[
    "autocontrast",
    "equalize",
    "invert",
    "rotate",
    "posterize",
    "solarize",
    "solarize_add",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)


class RandAugmentConfig(Config):
    """RandAugment; timm's `rand-m7-n4-mstd0.5-inc1` is magnitude 7, layers 4, magnitude_std 0.5."""

    magnitude: float = Field(7.0, ge=0, le=STRONGEST, description="strength of every operation, 0 to 10")
    magnitude_std: float = Field(0.5, ge=0, description="standard deviation of each operation's strength")
    layers: int = Field(2, ge=1, description="operations drawn for a clip")
    probability: float = Field(0.5, gt=0, le=1, description="probability of applying an operation that was drawn")
    operations: tuple[Operation, ...] = Field(OPERATIONS, min_length=1, description="operations to draw from")

    @field_validator("operations")
    @classmethod
    def _once(cls, value: tuple[Operation, ...]) -> tuple[Operation, ...]:
        if len(set(value)) < len(value):
            raise ValueError("an operation is listed twice")
        return value


@dataclass(frozen=True)
class _Effect:
    """The effect of an operation on a picture.

    Attributes:
        apply: (picture, argument) -> picture.
        argument: (strength 0..1, direction 1 or -1) -> argument.
        by_frame: Whether frames are processed one by one, because neighbouring pixels matter; the other operations
            process all frames as one tall picture.
    """

    apply: Callable[[Image.Image, float], Image.Image]
    argument: Callable[[float, int], float]
    by_frame: bool = False


def _solarize_add(picture: Image.Image, added: float) -> Image.Image:
    table = [min(255, value + int(added)) if value < 128 else value for value in range(256)]
    return picture.point(table * 3)


def _affine(picture: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC, fillcolor=FILL
    )


def _factor(strength: float, direction: int) -> float:
    """Return an enhancement factor: 1 changes nothing, 0.1 and 1.9 change most."""
    return max(0.1, 1 + direction * 0.9 * strength)


_EFFECTS: dict[str, _Effect] = {
    "autocontrast": _Effect(lambda p, _: ImageOps.autocontrast(p), lambda s, d: 0),
    "equalize": _Effect(lambda p, _: ImageOps.equalize(p), lambda s, d: 0),
    "invert": _Effect(lambda p, _: ImageOps.invert(p), lambda s, d: 0),
    "rotate": _Effect(
        lambda p, degrees: p.rotate(degrees, resample=Image.Resampling.BICUBIC, fillcolor=FILL),
        lambda s, d: d * 30 * s,
        by_frame=True,
    ),
    "posterize": _Effect(lambda p, bits: ImageOps.posterize(p, int(bits)), lambda s, d: max(1, 4 - int(4 * s))),
    "solarize": _Effect(lambda p, above: ImageOps.solarize(p, int(above)), lambda s, d: 256 - min(256, int(256 * s))),
    "solarize_add": _Effect(_solarize_add, lambda s, d: min(128, int(110 * s))),
    "color": _Effect(lambda p, factor: ImageEnhance.Color(p).enhance(factor), _factor),
    "contrast": _Effect(lambda p, factor: ImageEnhance.Contrast(p).enhance(factor), _factor),
    "brightness": _Effect(lambda p, factor: ImageEnhance.Brightness(p).enhance(factor), _factor),
    "sharpness": _Effect(lambda p, factor: ImageEnhance.Sharpness(p).enhance(factor), _factor, by_frame=True),
    "shear_x": _Effect(lambda p, v: _affine(p, (1, v, 0, 0, 1, 0)), lambda s, d: d * 0.3 * s, by_frame=True),
    "shear_y": _Effect(lambda p, v: _affine(p, (1, 0, 0, v, 1, 0)), lambda s, d: d * 0.3 * s, by_frame=True),
    "translate_x": _Effect(
        lambda p, v: _affine(p, (1, 0, v * p.width, 0, 1, 0)), lambda s, d: d * 0.45 * s, by_frame=True
    ),
    "translate_y": _Effect(
        lambda p, v: _affine(p, (1, 0, 0, 0, 1, v * p.height)), lambda s, d: d * 0.45 * s, by_frame=True
    ),
}


def rand_augment(frames: np.ndarray, config: RandAugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Augment uint8 `[T, H, W, 3]`; the result is the input itself when no operation is applied."""
    for number in rng.integers(len(config.operations), size=config.layers):
        applied = rng.random() < config.probability
        magnitude = min(max(rng.normal(config.magnitude, config.magnitude_std), 0.0), STRONGEST)
        direction = -1 if rng.random() < 0.5 else 1
        if applied:
            frames = apply_operation(frames, config.operations[number], magnitude, direction)
    return frames


def apply_operation(frames: np.ndarray, operation: Operation, magnitude: float, direction: int) -> np.ndarray:
    """Apply one operation to all frames, uint8 `[T, H, W, 3]`.

    Args:
        frames: The clip.
        operation: A name in `OPERATIONS`.
        magnitude: 0 to 10.
        direction: 1 or -1: brighter or darker, to one side or the other; most tone operations ignore it.
    """
    effect = _EFFECTS[operation]
    argument = effect.argument(magnitude / STRONGEST, direction)
    if effect.by_frame:
        return np.stack([np.asarray(effect.apply(Image.fromarray(frame), argument)) for frame in frames])
    _, _, width, _ = frames.shape
    tall = Image.fromarray(np.ascontiguousarray(frames).reshape(-1, width, 3))
    return np.asarray(effect.apply(tall, argument)).reshape(frames.shape)
