"""The head: skull, ears, hair, eyes, brows, glasses, nose and mouth, drawn around the pose's own face
landmarks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from islr.synth.drawing.canvas import Color, capsule, contour, disc, ellipse, fixed, mix, polygon, scale

HAIR_STYLES = ("short", "side", "bob", "long", "bun", "curly", "cropped")
# Lower edge of the hair on the head, average-head metres from the head's centre, from the signer's right to
# the left.
_HAIRLINE = np.array(
    [
        *[(-0.076, 0.012), (-0.068, 0.050), (-0.048, 0.076), (0.0, 0.084)],
        *[(0.048, 0.076), (0.068, 0.050), (0.076, 0.012)],
    ]
)
_SIDE_PARTING = np.array(
    [
        *[(-0.076, 0.012), (-0.066, 0.048), (-0.030, 0.062), (0.020, 0.080)],
        *[(0.046, 0.092), (0.066, 0.052), (0.076, 0.012)],
    ]
)
_GLASSES: Color = (40, 40, 46)
_IRIS: Color = (38, 26, 20)
_DARK_HAIR = 380  # sum of the channels above which brows are drawn darker than the hair


@dataclass(frozen=True)
class Face:
    """How one signer's head is drawn: colours under the clip's light, styles, canvas line width."""

    skin: Color
    edge: Color
    hair: Color
    lips: Color
    white: Color  # of the eyes
    hair_style: str
    glasses: bool
    light: np.ndarray  # [2] unit vector to the light
    shading: float
    line: int

    def paint_hair_behind(self, picture: np.ndarray, points: np.ndarray, metre: float) -> None:
        """Paint the hair that falls behind neck and shoulders; drawn before the torso."""
        if self.hair_style not in ("long", "bob"):
            return
        center = 0.5 * (points[7] + points[8])
        drop = 0.20 if self.hair_style == "long" else 0.10
        width = 0.098 * metre
        ends = center - np.array([0.0, 0.03 * metre]), center + np.array([0.0, drop * metre])
        capsule(picture, ends, (width, 0.95 * width), scale(self.hair, 0.8))

    def paint(self, picture: np.ndarray, points: np.ndarray, metre: float, eyes: float, mouth: float) -> None:
        """Draw the head.

        Args:
            points: [75, 2] landmarks of the frame, canvas pixels.
            metre: canvas pixels per metre of an average head.
            eyes, mouth: how far they are open, 0..1.
        """
        ears = points[7] - points[8]
        tilt = math.degrees(math.atan2(ears[1], ears[0]))
        center = 0.5 * (points[7] + points[8])
        across = ears / max(float(np.hypot(ears[0], ears[1])), 1.0)  # to the signer's left
        down = np.array([-across[1], across[0]])
        for ear in (7, 8):
            ellipse(picture, points[ear], (0.016 * metre, 0.026 * metre), self.edge, tilt)
            ellipse(picture, points[ear], (0.012 * metre, 0.021 * metre), scale(self.skin, 0.92), tilt)
        if self.hair_style == "bun":
            ellipse(picture, center - down * 0.135 * metre, (0.040 * metre, 0.036 * metre), self.hair, tilt)
        skull = (0.079 * metre, 0.110 * metre)
        ellipse(picture, center, (skull[0] + self.line, skull[1] + self.line), self.edge, tilt)
        ellipse(picture, center, skull, self.skin, tilt)
        lit = scale(self.skin, 1 + 0.05 * self.shading)
        ellipse(picture, center + self.light * 0.014 * metre, (0.060 * metre, 0.090 * metre), lit, tilt)
        self._hair(picture, center, down, across, metre)
        self._eyes(picture, points, down, across, metre, tilt, eyes)
        self._nose_and_mouth(picture, points, down, across, metre, tilt, mouth)

    def _hair(self, picture: np.ndarray, center: np.ndarray, down: np.ndarray, across: np.ndarray, m: float) -> None:
        full = 0.0 if self.hair_style == "cropped" else 0.005
        turn = np.radians(np.arange(-14, 195, 11))
        crown = np.column_stack([(0.080 + full) * np.cos(turn), (0.111 + full) * np.sin(turn)])
        ring = np.concatenate([crown, _SIDE_PARTING if self.hair_style == "side" else _HAIRLINE])
        polygon(picture, fixed(center + m * (ring[:, :1] * across - ring[:, 1:] * down)), self.hair)
        if self.hair_style == "curly":
            for angle in np.radians(np.arange(0, 190, 20)):
                curl = center + m * (across * np.cos(angle) * 0.082 - down * np.sin(angle) * 0.106)
                disc(picture, curl, 0.027 * m, self.hair)
        elif self.hair_style in ("long", "bob"):
            length = 0.13 if self.hair_style == "long" else 0.075
            for sign in (-1, 1):
                top = center + across * sign * 0.080 * m - down * 0.03 * m
                capsule(picture, (top, top + down * length * m), (0.015 * m, 0.013 * m), self.hair)

    def _eyes(
        self,
        picture: np.ndarray,
        points: np.ndarray,
        down: np.ndarray,
        across: np.ndarray,
        m: float,
        tilt: float,
        opening: float,
    ) -> None:
        brow = scale(self.hair, 0.8 if sum(self.hair) < _DARK_HAIR else 0.65)
        thin = max(int(0.006 * m), 1)
        for eye in (points[2], points[5]):
            if opening > 0.3:
                ellipse(picture, eye, (0.0155 * m, 0.0095 * m * opening), self.white, tilt)
                ellipse(picture, eye, (0.0078 * m, 0.0085 * m * opening), _IRIS, tilt)
            lid = scale(self.skin, 0.45)
            ellipse(picture, eye, (0.0165 * m, 0.0105 * m), lid, tilt, span=(180, 360), width=thin)
            arch = eye - m * (0.024 * down + np.array([[0.019], [0.0], [-0.019]]) * across)
            arch[1] -= 0.006 * m * down
            contour(picture, fixed(arch), brow, max(int(0.0085 * m), 1), closed=False)
            if self.glasses:
                ellipse(picture, eye, (0.026 * m, 0.021 * m), _GLASSES, tilt, width=thin)
        if self.glasses:
            bridge = np.array([points[2] - across * 0.026 * m, points[5] + across * 0.026 * m])
            contour(picture, fixed(bridge), _GLASSES, thin, closed=False)

    def _nose_and_mouth(
        self,
        picture: np.ndarray,
        points: np.ndarray,
        down: np.ndarray,
        across: np.ndarray,
        m: float,
        tilt: float,
        opening: float,
    ) -> None:
        tip = points[0]
        nose = np.array([tip - down * 0.030 * m, tip + across * 0.011 * m, tip - across * 0.004 * m])
        contour(picture, fixed(nose), scale(self.skin, 0.62), max(int(0.0065 * m), 1), closed=False)
        mouth = 0.5 * (points[9] + points[10])
        ellipse(picture, mouth, (0.026 * m, (0.0075 + 0.010 * opening) * m), self.lips, tilt)
        if opening > 0.25:
            ellipse(picture, mouth, (0.018 * m, 0.008 * opening * m), (60, 18, 22), tilt)
        else:
            seam = np.array([mouth - across * 0.024 * m, mouth + across * 0.024 * m])
            contour(picture, fixed(seam), scale(self.lips, 0.6), max(int(0.006 * m), 1), closed=False)


def lips_of(skin: Color, red: Color) -> Color:
    """Return the lip colour that goes with a skin colour."""
    return mix(skin, red, 0.62)
