"""Random erasing of a clip (Zhong et al., arXiv 1708.04896): one box, the same in all frames."""

import math
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from islr.config import Config

TRIES = 10  # boxes drawn until one fits


class ErasingConfig(Config):
    """Random erasing; the defaults are timm's and SlowFast's, `RE_PROB` 0.25 with `RE_MODE` pixel and `RE_COUNT` 1."""

    probability: float = Field(0.25, gt=0, le=1, description="probability of erasing a box of a clip")
    area: tuple[float, float] = Field((0.02, 1 / 3), description="box's share of the picture, drawn between")
    ratio: tuple[float, float] = Field((0.3, 1 / 0.3), description="box's height by its width, drawn between")
    fill: Literal["noise", "mean"] = Field("noise", description="noise, or the mean of the encoder's input")

    @model_validator(mode="after")
    def _ordered(self) -> "ErasingConfig":
        for name in ("area", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two positive numbers, the smaller first")
        if self.area[1] >= 1:
            raise ValueError("area is a share of the picture and must stay below 1")
        return self


def erase_box(
    frames: np.ndarray,
    config: ErasingConfig,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    rng: np.random.Generator,
) -> np.ndarray:
    """Overwrite one box of all frames, with the config's probability; the input stays as it is.

    The originals write normal noise (or zeros) into the normalised clip. Frames are bytes here, so the same noise gets
    the encoder's mean and std, is rounded, and is clipped at black and white.

    Args:
        frames: uint8 `[T, H, W, 3]`.
        config: Probability, size and fill of the box.
        mean, std: Of the encoder's input, by channel of `frames`, for pixels scaled to 0..1.
        rng: Draws everything.
    """
    if rng.random() >= config.probability:
        return frames
    height, width = frames.shape[1:3]
    for _ in range(TRIES):
        area = rng.uniform(*config.area) * height * width
        ratio = math.exp(rng.uniform(math.log(config.ratio[0]), math.log(config.ratio[1])))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < h < height and 0 < w < width:
            break
    else:
        return frames
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    box = np.broadcast_to(np.array(mean, np.float32), (len(frames), h, w, 3))
    if config.fill == "noise":
        box = box + rng.standard_normal(box.shape, np.float32) * np.array(std, np.float32)
    erased = frames.copy()
    erased[:, top : top + h, left : left + w] = np.clip(np.rint(box * 255), 0, 255).astype(np.uint8)
    return erased
