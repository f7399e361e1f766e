"""How hard a corpus is: what varies between signers, between clips and between camera and file, in three presets.

`easy`: a recording studio. Everybody before one plain wall, in plain dark or light clothes, evenly lit, as in
recordings made for a dictionary (ASL-LEX, ASL Signbank). People, their handedness, cameras and ways of signing still
differ.

`medium`: everybody at home, in their own clothes, before their own wall, under their own lamp, with a little noise.

`hard`: found footage. As medium, and: clothes that hands do not stand out from, cluttered rooms, harsher light, cameras
further to the side, further away and off centre, sloppier handshapes and places, faster and slower signing, motion
blur, cameras that resolve less than the file, noise and strong compression.
"""

from __future__ import annotations

from dataclasses import dataclass

from islr.synth.drawing.backdrop import BACKDROPS, CLUTTERED

Span = tuple[float, float]  # values are drawn evenly between the two


@dataclass(frozen=True)
class Difficulty:
    """One preset. Factors multiply what a signer of `medium` has.

    Attributes:
        studio: One wall and plain clothes for everybody, even light, at most a trace of noise.
        any_clothes: Clothes of any colour; otherwise hands stand out from them.
        backdrops: What signers are filmed before.
        exposure: Factor on the light.
        noise: Factor on the sensor noise.
        yaw, pitch: Degrees by which a signer's camera is further to the side and higher or lower, to either side.
        zoom: Factor on the size of the signer in the picture.
        shift: Share of the picture by which the signer is off centre, to either side.
        tempo, handshape_noise, location_noise: Factors on the signer's way of moving.
        shutter: Share of the time between two frames in which the picture smears.
        resolution: Share of the file's lines that the camera resolves.
        quality: x264 constant rate factor, one for each clip; larger is worse.
    """

    studio: bool = False
    any_clothes: bool = False
    backdrops: tuple[str, ...] = BACKDROPS
    exposure: Span = (1.0, 1.0)
    noise: Span = (1.0, 1.0)
    yaw: float = 0.0
    pitch: float = 0.0
    zoom: Span = (1.0, 1.0)
    shift: float = 0.0
    tempo: Span = (1.0, 1.0)
    handshape_noise: Span = (1.0, 1.0)
    location_noise: Span = (1.0, 1.0)
    shutter: Span = (0.0, 0.0)
    resolution: Span = (1.0, 1.0)
    quality: tuple[int, int] = (22, 22)  # 22: visually clean at these sizes


DIFFICULTIES: dict[str, Difficulty] = {
    "easy": Difficulty(studio=True),
    "medium": Difficulty(),
    "hard": Difficulty(
        any_clothes=True,
        backdrops=(*BACKDROPS, *3 * CLUTTERED),
        exposure=(0.70, 1.15),
        noise=(1.5, 3.0),
        yaw=18.0,
        pitch=6.0,
        zoom=(0.80, 1.04),
        shift=0.035,
        tempo=(0.85, 1.30),
        handshape_noise=(2.0, 3.0),
        location_noise=(1.8, 2.8),
        shutter=(0.3, 0.7),
        resolution=(0.55, 1.0),
        quality=(26, 36),
    ),
}
