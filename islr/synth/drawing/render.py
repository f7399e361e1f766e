"""Pixels: a performance and a signer -> RGB frames. Painter's algorithm over limbs, fingers and head, supersampled.

Legend: T frames. Everything is drawn on a canvas of `supersampling` times the picture, then averaged down. Side 0 is
the signer's right, side 1 the left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from islr.synth.drawing.backdrop import paint_backdrop
from islr.synth.drawing.camera import Camera
from islr.synth.drawing.canvas import (
    Color,
    capsule,
    contour,
    convex_hull,
    disc,
    fixed,
    fixed_between,
    mix,
    polygon,
    scale,
    segment,
    shrink,
)
from islr.synth.drawing.face import Face, lips_of
from islr.synth.drawing.look import Look
from islr.synth.drawing.projection import Projection
from islr.synth.kinematics.body import Body

_CANVAS = 256  # smallest canvas side: below this a finger is too few pixels to shade
# Metres of an average hand, from the palm outwards.
_FINGER_WIDTH = np.array([0.0205, 0.0185, 0.0165])
_THUMB_WIDTH = np.array([0.0300, 0.0225, 0.0195])
_PALM_DEPTH, _WRIST_RADIUS = 0.0190, 0.026
_BACK_SHADE = 0.92  # the back of a hand is darker than its palm
_END_ON = 1.7  # depth over length in the picture beyond which a segment counts as seen end-on: 60 degrees
_NAIL: Color = (255, 226, 214)
_NAIL_FROM, _NAIL_TO, _NAIL_WIDTH = 0.50, 1.10, 0.60  # along the last segment, and in its widths
_NAIL_SEEN = 0.25  # how far the back of a fingertip has to face the camera
_CREASES_SEEN = 0.35  # the same of palm and back of the hand
_KNUCKLE = 0.0075  # metres
# Lines of the palm as weights of wrist, thumb base, index, middle and little knuckle.
_CREASED = [0, 1, 5, 9, 17]
_CREASE_ACROSS = np.array([[0.22, 0, 0, 0, 0.78], [0.24, 0, 0.06, 0.42, 0.28], [0.10, 0, 0.62, 0.28, 0]])
_CREASE_OF_THUMB = np.array([[0.24, 0.10, 0.66, 0, 0], [0.40, 0.10, 0.20, 0.20, 0.10], [0.78, 0.06, 0, 0.04, 0.12]])
_ARM_WIDTHS = (0.098, 0.082, 0.058)  # metres at shoulder, elbow, wrist
_OUTLINE = 0.0048  # metres
_STRIPE_STEP = 0.06  # metres
_DARK_CLOTHES = 210  # sum of the channels below which the outline is lighter than the cloth
_HAND_START = (54, 33)  # first point of the right and of the left hand among the 75
_ARM_JOINTS = ((12, 14, 16), (11, 13, 15))  # shoulder, elbow, wrist of the right and of the left arm
_KNUCKLES_AND_WRIST = [0, 5, 9, 13, 17]
_PALM, _FOREARM, _UPPER_ARM, HEAD = 5, 6, 7, 8  # units of a side; 0-4 are the fingers, thumb first


def supersampling(size: int) -> int:
    """Return the canvas pixels per picture pixel along one side."""
    return max(math.ceil(_CANVAS / size), 1)


class Painter:
    """Draws the frames of one shot. What can be is prepared for the whole clip; `paint` mostly calls the canvas."""

    def __init__(self, shot: Projection, body: Body, camera: Camera, look: Look, rng: np.random.Generator) -> None:
        factor = supersampling(shot.size)
        self.side = shot.size * factor
        self.look, self.body, self.camera, self.shot = look, body, camera, shot
        self.points = shot.points * factor
        self.fixed_points = fixed(self.points)
        self.near = shot.per_metre * factor
        self.sway = fixed(shot.sway * factor)
        self.line = max(round(_OUTLINE * float(camera.project(np.zeros(3), self.side)[2])), 1)
        self.skin, self.palm = self.tint(look.skin), self.tint(look.palm)
        self.skin_edge = scale(self.skin, 0.42)
        self.cloth = self.tint(look.clothes)
        self.cloth_edge = scale(self.cloth, 0.55 if sum(self.cloth) > _DARK_CLOTHES else 1.7)
        self.light = np.array(look.light) / np.linalg.norm(look.light)
        self.face = Face(
            skin=self.skin,
            edge=self.skin_edge,
            hair=self.tint(look.hair),
            lips=lips_of(self.skin, self.tint((176, 60, 66))),
            white=self.tint((246, 246, 244)),
            hair_style=look.hair_style,
            glasses=look.glasses,
            light=self.light,
            shading=look.shading,
            line=self.line,
        )
        first, second = look.backdrop_colors
        self.backdrop = paint_backdrop(
            look.backdrop, (self.tint(first), self.tint(second)), look.backdrop_seed, self.side
        )
        self.eyes, self.mouth = _expressions(len(shot.points), rng)
        self._prepare_torso()
        self._prepare_hands()
        self.order = self._depth_order()

    def tint(self, color: Color) -> Color:
        """Return a colour under the clip's light."""
        gain = self.look.gain
        return color[0] * gain[0], color[1] * gain[1], color[2] * gain[2]

    def _flat(self, outline: np.ndarray, z: float = 0.0) -> np.ndarray:
        """Convert body-frame points [N, 2] at depth z to fixed-point canvas coordinates [N, 2], without sway."""
        points = np.column_stack([outline, np.full(len(outline), z)])
        return fixed(self.camera.project(points, self.side)[0])

    def _prepare_torso(self) -> None:
        s, t, n = self.body.shoulder, self.body.torso, self.body.neck
        half = np.array(
            [
                *[(0.050, 0.55 * n), (0.055, 0.30 * n), (0.50 * s, 0.036), (0.86 * s, 0.036), (1.08 * s, 0.018)],
                *[(1.20 * s, -0.030), (1.20 * s, -0.10), (0.96 * s, -0.20), (0.88 * s, -0.55 * t)],
                *[(0.90 * s, -0.8 * t), (1.00 * s, -1.05 * t), (1.02 * s, -1.5 * t)],
            ]
        )
        flip = np.array([-1.0, 1.0])
        self.torso = self._flat(np.concatenate([half, half[::-1] * flip]))
        flank = half[4:]
        shade = np.concatenate([flank, flank[::-1] - [0.055, 0.0]])
        self.torso_shade = self._flat(shade if self.light[0] < 0 else shade * flip)
        dip = {"v": -0.105, "collar": -0.012}.get(self.look.neckline, -0.030)
        neck = np.array([(0.046, 1.3 * n), (0.050, 0.4 * n), (0.062, 0.0)])
        self.neck = self._flat(np.concatenate([neck, [(0.0, dip)], neck[::-1] * flip]), 0.03)
        jaw = np.array([(0.047, 1.3 * n), (0.050, 0.62 * n)])
        self.neck_shade = self._flat(np.concatenate([jaw, [(0.0, 0.42 * n)], jaw[::-1] * flip]), 0.03)
        heights = np.arange(-0.12, -1.5 * t, -_STRIPE_STEP) if self.look.stripes else ()
        self.stripes = [self._flat(np.array([(0.9 * s, y), (-0.9 * s, y)])) for y in heights]

    def _prepare_hands(self) -> None:
        """Precompute widths and shades of fingers and palms for every frame, as plain lists; index 0 is the side."""
        # [2, T] canvas pixels per hand metre
        self.hand_unit = self.near[:, list(_HAND_START)].T * self.body.hand
        self.widths = [
            [
                np.maximum(np.round(unit[:, None] * width), 2).astype(int).tolist()
                for width in (_THUMB_WIDTH, _FINGER_WIDTH)
            ]
            for unit in self.hand_unit
        ]
        still = np.zeros(len(self.points))
        self.palm_colors = [self._skin_shades(self.shot.palm_side[side], still).tolist() for side in range(2)]
        self.finger_colors = [self._finger_shades(side).tolist() for side in range(2)]
        self.stubs = [self._stubs(side).tolist() for side in range(2)]
        self.nail = mix(self.skin, self.tint(_NAIL), 0.7)
        self.nails_seen = [(self.shot.pad_side[side, :, :, 2] < -_NAIL_SEEN).tolist() for side in range(2)]

    def _skin_shades(self, facing: np.ndarray, lift: np.ndarray) -> np.ndarray:
        """Return the skin colours [..., 3] for how far the palmar side faces the camera and how near the part is
        (metres). What is seen end-on is dark, what is near is light.
        """
        toward_palm = np.clip(0.5 + 1.2 * facing, 0.0, 1.0)[..., None]
        color = _BACK_SHADE * np.array(self.skin) * (1 - toward_palm) + np.array(self.palm) * toward_palm
        level = 0.74 + 0.24 * np.abs(facing) + np.clip(1.3 * lift, -0.20, 0.10)
        return np.clip(color * level[..., None], 0, 255)

    def _finger_shades(self, side: int) -> np.ndarray:
        """Return the colours [T, 5 fingers, 3 segments, 3]; the thumb is finger 0 and faces as the palm does."""
        hand = self._hand_depth(side)
        joints = hand[:, 1:].reshape(-1, 5, 4)
        lift = 0.5 * (joints[:, :, 1:] + joints[:, :, :-1]) - hand[:, _KNUCKLES_AND_WRIST].mean(axis=1)[:, None, None]
        thumb = np.repeat(0.7 * self.shot.palm_side[side][:, None, None], 3, axis=2)
        return self._skin_shades(np.concatenate([thumb, self.shot.pad_side[side]], axis=1), lift)

    def _stubs(self, side: int) -> np.ndarray:
        """Return whether finger segments [T, 5, 3] are seen end-on: they get an outline of their own."""
        start = _HAND_START[side] + 1
        chains = self.points[:, start : start + 20].reshape(-1, 5, 4, 2)
        depth = self.shot.depth[:, start : start + 20].reshape(-1, 5, 4)
        away = np.abs(np.diff(depth, axis=2)) * self.near[:, _HAND_START[side], None, None]
        across = np.linalg.norm(np.diff(chains, axis=2), axis=-1)
        return away > _END_ON * across

    def _hand_depth(self, side: int) -> np.ndarray:
        start = _HAND_START[side]
        return self.shot.depth[:, start : start + 21]

    def unit_depths(self) -> dict[tuple[int, int], np.ndarray]:
        """Return the depth [T] of every (side, unit), metres, larger is nearer."""
        depth = self.shot.depth
        depths: dict[tuple[int, int], np.ndarray] = {}
        for side, (shoulder, elbow, wrist) in enumerate(_ARM_JOINTS):
            hand = self._hand_depth(side)
            for finger in range(5):
                depths[side, finger] = hand[:, 2 + 4 * finger : 5 + 4 * finger].mean(axis=1)
            depths[side, _PALM] = hand[:, _KNUCKLES_AND_WRIST].mean(axis=1)
            # Sleeves sit behind the hands they lead to, also where their middles are level.
            depths[side, _FOREARM] = 0.45 * depth[:, elbow] + 0.55 * depth[:, wrist] - 0.03
            depths[side, _UPPER_ARM] = 0.5 * (depth[:, shoulder] + depth[:, elbow]) - 0.06
        depths[0, HEAD] = depth[:, [7, 8]].mean(axis=1)
        return depths

    def _depth_order(self) -> list[list[tuple[int, int]]]:
        """Return for every frame the (side, unit) to draw, far to near."""
        depths = self.unit_depths()
        units = list(depths)
        order = np.argsort(np.stack(list(depths.values()), axis=1), axis=1, kind="stable")
        return [[units[column] for column in row] for row in order.tolist()]

    def pictures(self) -> Iterator[np.ndarray]:
        """Yield the frames, uint8 [size, size, 3] RGB, before camera and file degrade them."""
        return (shrink(self.paint(index), self.shot.size) for index in range(len(self.shot.points)))

    def paint(self, index: int) -> np.ndarray:
        """Return one frame on the canvas."""
        picture = self.backdrop.copy()
        points, metre = self.points[index], float(self.near[index, 0]) * self.body.head
        self.face.paint_hair_behind(picture, points, metre)
        self._torso(picture, self.sway[index])
        for side, unit in self.order[index]:
            self.paint_unit(picture, index, side, unit)
        return picture

    def paint_unit(self, picture: np.ndarray, index: int, side: int, unit: int) -> None:
        """Paint one finger, palm, part of an arm, or the head."""
        if unit < _PALM:
            self._finger(picture, index, side, unit)
        elif unit == _PALM:
            self._palm(picture, index, side)
        elif unit == _FOREARM:
            self._forearm(picture, index, side)
        elif unit == _UPPER_ARM:
            self._upper_arm(picture, index, side)
        else:
            self.paint_head(picture, index)

    def paint_head(self, picture: np.ndarray, index: int) -> None:
        """Paint the head as seen from the front."""
        metre = float(self.near[index, 0]) * self.body.head
        self.face.paint(picture, self.points[index], metre, float(self.eyes[index]), float(self.mouth[index]))

    def _torso(self, picture: np.ndarray, sway: np.ndarray) -> None:
        torso, neck = self.torso + sway, self.neck + sway
        contour(picture, torso, self.cloth_edge, 2 * self.line)
        polygon(picture, torso, self.cloth)
        for row in self.stripes:
            contour(picture, row + sway, mix(self.cloth, self.cloth_edge, 0.35), 3 * self.line, closed=False)
        polygon(picture, self.torso_shade + sway, scale(self.cloth, 1 - 0.16 * self.look.shading))
        polygon(picture, neck, self.skin)
        polygon(picture, self.neck_shade + sway, scale(self.skin, 0.80))
        contour(picture, neck[1:-1], self.cloth_edge, self.line, closed=False)

    def limb(
        self,
        picture: np.ndarray,
        ends: tuple[np.ndarray, np.ndarray],
        radii: tuple[float, float],
        color: Color,
        edge: Color,
    ) -> None:
        """Paint a limb with outline and a lit side. Its first end has no outline: it grows out of what is drawn
        there.
        """
        capsule(picture, ends, (radii[0] + self.line, radii[1] + self.line), edge, round_start=False)
        capsule(picture, ends, radii, color)
        lit = 0.34 * min(radii) * self.light
        axis = ends[1] - ends[0]
        shine = (ends[0] + 0.06 * axis + lit, ends[1] - 0.04 * axis + lit)
        capsule(picture, shine, (0.55 * radii[0], 0.5 * radii[1]), scale(color, 1 + 0.11 * self.look.shading))

    def _upper_arm(self, picture: np.ndarray, index: int, side: int) -> None:
        shoulder, elbow, _ = _ARM_JOINTS[side]
        points, near = self.points[index], self.near[index]
        start = points[shoulder] + 0.10 * (points[elbow] - points[shoulder])
        radii = 0.5 * _ARM_WIDTHS[0] * near[shoulder], 0.5 * _ARM_WIDTHS[1] * near[elbow]
        self.limb(picture, (start, points[elbow]), radii, self.cloth, self.cloth_edge)

    def _forearm(self, picture: np.ndarray, index: int, side: int) -> None:
        _, elbow, wrist = _ARM_JOINTS[side]
        a, b = self.points[index][[elbow, wrist]]
        wide = 0.5 * _ARM_WIDTHS[1] * self.near[index, elbow]
        narrow = 0.5 * _ARM_WIDTHS[2] * self.near[index, wrist]
        sleeve = self.look.sleeve
        if sleeve < 0.9:
            self.limb(picture, (a, b), (0.94 * wide, narrow), self.skin, self.skin_edge)
        if sleeve > 0:
            cuff = wide + (1.16 * narrow - wide) * sleeve
            self.limb(picture, (a, a + (b - a) * sleeve), (wide, cuff), self.cloth, self.cloth_edge)
        else:
            disc(picture, a, wide, self.cloth)

    def _palm(self, picture: np.ndarray, index: int, side: int) -> None:
        start, unit = _HAND_START[side], float(self.hand_unit[side, index])
        hand = self.points[index, start : start + 21]
        across = (hand[5] - hand[17]) * 0.36
        corners = [*hand[[5, 9, 13, 17]], hand[0] - across, hand[0] + across, hand[1]]
        hull = convex_hull(np.array(corners))
        thick = max(round(_PALM_DEPTH * unit), 2)
        color = self.palm_colors[side][index]
        contour(picture, hull, self.skin_edge, thick + 2 * self.line)
        polygon(picture, hull, color)
        contour(picture, hull, color, thick)
        polygon(picture, fixed(hand[[1, 2, 5]]), color)  # the web of the thumb
        disc(picture, hand[0], _WRIST_RADIUS * unit, color)
        facing = float(self.shot.palm_side[side, index])
        if facing > _CREASES_SEEN:  # the line across a palm, and the one around the ball of its thumb
            mark = scale((color[0], color[1], color[2]), 0.80)
            contour(picture, fixed(_CREASE_ACROSS @ hand[_CREASED]), mark, self.line, False)
            contour(picture, fixed(_CREASE_OF_THUMB @ hand[_CREASED]), mark, self.line, False)
        elif facing < -_CREASES_SEEN:  # the knuckles of a back of the hand
            for knuckle in (5, 9, 13, 17):
                disc(picture, hand[knuckle], _KNUCKLE * unit, scale((color[0], color[1], color[2]), 0.86))

    def _finger(self, picture: np.ndarray, index: int, side: int, finger: int) -> None:
        start = _HAND_START[side] + 1 + 4 * finger
        chain = self.fixed_points[index, start : start + 4]
        widths = self.widths[side][min(finger, 1)][index]
        colors = self.finger_colors[side][index][finger]
        tip_is_nearer = self.shot.depth[index, start + 3] >= self.shot.depth[index, start + 1]
        order = (0, 1, 2) if tip_is_nearer else (2, 1, 0)
        joints, stubs = chain.tolist(), self.stubs[side][index][finger]
        for part in order:
            segment(picture, joints[part], joints[part + 1], self.skin_edge, widths[part] + 2 * self.line)
        for part in order:
            if stubs[part]:
                segment(picture, joints[part], joints[part + 1], self.skin_edge, widths[part] + self.line)
            segment(picture, joints[part], joints[part + 1], colors[part], widths[part])
        shine = chain + fixed(0.22 * widths[1] * self.light)
        lit = scale(colors[1], 1 + 0.11 * self.look.shading)
        if not any(stubs):
            contour(picture, shine, lit, max(int(0.36 * widths[2]), 1), False)
        if finger and self.nails_seen[side][index][finger - 1]:
            root, tip = fixed_between(chain[2], chain[3], _NAIL_FROM, _NAIL_TO)
            segment(picture, root, tip, self.nail, max(int(_NAIL_WIDTH * widths[2]), 1))


def _expressions(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return eye opening and mouth opening [T] in 0..1: occasional blinks, some mouthing."""
    time = np.arange(count)
    eyes = np.ones(count)
    if rng.random() < 0.6:
        eyes = np.clip(np.abs(time - rng.uniform(0, count)) - 1.0, 0.0, 1.0)
    speed, phase = rng.uniform(0.15, 0.4), rng.uniform(0, 2 * np.pi)
    mouth = np.clip(0.5 * np.sin(speed * time + phase) + 0.3 * np.sin(2.3 * speed * time), 0.0, 1.0)
    return eyes, mouth
