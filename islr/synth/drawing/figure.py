"""Pixels of whole bodies: legs, a torso that bends and turns, and a head that may look away.

Arms and hands are drawn as in close-ups; everything is drawn far to near.
"""

from __future__ import annotations

import numpy as np

from islr.synth.drawing.camera import Camera
from islr.synth.drawing.canvas import Color, capsule, disc, ellipse, fixed, polygon, rectangle, scale, segment
from islr.synth.drawing.look import Look
from islr.synth.drawing.projection import Projection
from islr.synth.drawing.render import HEAD, Painter
from islr.synth.kinematics.body import Body

_TROUSERS: tuple[Color, ...] = ((44, 50, 74), (60, 60, 64), (112, 96, 74), (36, 36, 40))
_SHOE: Color = (34, 32, 34)
_LEG_WIDTHS = (0.165, 0.115, 0.085)  # metres at hip, knee, ankle
_SHOE_WIDTH = 0.085
_CHEST, _WAIST = 1.06, 0.90  # half-widths in shoulder half-widths
_TORSO_DEPTH = 0.10  # metres from its middle to chest and back: how narrow it is from the side
_SKULL = (0.082, 0.115)
_SIDEWAYS = 0.35  # metres along the shoulders' line per metre of picture, below which a face is not seen
_ARM_BEHIND = 0.10  # metres that an arm is behind the chest when the chest hides it
_SHOULDERS, _HIPS, _EARS, _EYES, _MOUTH = (12, 11), (24, 23), (8, 7), (2, 5), (9, 10)
_LEGS = ((24, 26, 28, 32), (23, 25, 27, 31))  # hip, knee, ankle, toe of the right and of the left leg
_FLOOR = 0.10  # metres below the ankles


class FigurePainter(Painter):
    """Draws the frames of one whole-body shot."""

    def __init__(self, shot: Projection, body: Body, camera: Camera, look: Look, rng: np.random.Generator) -> None:
        super().__init__(shot, body, camera, look, rng)
        self.trousers = self.tint(_TROUSERS[look.backdrop_seed % len(_TROUSERS)])
        self.shoe = self.tint(_SHOE)
        ground = int(self.points[:, 27:29, 1].max(axis=1).min() + _FLOOR * float(self.near[0, 27]) * 0.5)
        floor = scale(self.tint(look.backdrop_colors[1]), 0.75)
        rectangle(self.backdrop, (0, ground), (self.side, self.side), floor)
        self.depths = self.unit_depths()

    def paint(self, index: int) -> np.ndarray:
        """Return one frame on the canvas, without noise."""
        picture = self.backdrop.copy()
        depth = self.shot.depth[index]
        chest = float(depth[list(_SHOULDERS)].mean())
        hips = float(depth[list(_HIPS)].mean())
        parts: list[tuple[float, int, int]] = [(0.5 * (chest + hips), -1, 0)]
        parts += [(float(depth[[knee, ankle]].mean()), -2, side) for side, (_, knee, ankle, _) in enumerate(_LEGS)]
        for (side, unit), depths in self.depths.items():
            ahead = 2 * _ARM_BEHIND if unit != HEAD else 0.02
            parts.append((float(depths[index]) + ahead, unit, side))
        for _, unit, side in sorted(parts, key=lambda part: part[0]):
            if unit == -1:
                self._trunk(picture, index)
            elif unit == -2:
                self._leg(picture, index, side)
            else:
                self.paint_unit(picture, index, side, unit)
        return picture

    def _leg(self, picture: np.ndarray, index: int, side: int) -> None:
        hip, knee, ankle, toe = (self.points[index][joint] for joint in _LEGS[side])
        metre = float(self.near[index, _LEGS[side][1]])
        top, middle, bottom = (0.5 * width * metre for width in _LEG_WIDTHS)
        edge = scale(self.trousers, 0.6)
        foot = fixed(np.stack([ankle + 0.3 * (toe - ankle), toe])).tolist()
        segment(picture, foot[0], foot[1], self.shoe, max(round(_SHOE_WIDTH * metre), 2))
        self.limb(picture, (knee, ankle), (middle, bottom), self.trousers, edge)
        self.limb(picture, (hip, knee), (top, middle), self.trousers, edge)

    def _trunk(self, picture: np.ndarray, index: int) -> None:
        points, metre = self.points[index], float(self.near[index, 11])
        shoulders, hips = points[list(_SHOULDERS)], points[list(_HIPS)]
        top, bottom = shoulders.mean(axis=0), hips.mean(axis=0)
        across = shoulders[1] - shoulders[0]
        width = 0.5 * float(np.hypot(*across))
        along = (bottom - top) / max(float(np.hypot(*(bottom - top))), 1.0)
        side = np.array([along[1], -along[0]])  # from the middle line to the picture's right, level with the chest
        if side @ across < 0:
            side = -side
        head = points[list(_EARS)].mean(axis=0)
        neck = 0.052 * metre
        capsule(picture, (head, top + 0.02 * metre * along), (0.8 * neck, neck), scale(self.skin, 0.86))
        flat = max(width, _TORSO_DEPTH * metre)
        rows = ((-0.035, 0.62), (0.02, _CHEST), (0.16, _CHEST), (0.36, _WAIST))
        outline = [(top + share * metre * along, flat * half) for share, half in rows]
        outline.append((bottom + 0.05 * metre * along, max(0.96 * flat * _WAIST, 0.125 * metre)))
        shape = [point + half * side for point, half in outline] + [
            point - half * side for point, half in outline[::-1]
        ]
        rim = [point + (half + self.line) * side for point, half in outline]
        rim += [point - (half + self.line) * side for point, half in outline[::-1]]
        polygon(picture, fixed(np.array(rim)), self.cloth_edge)
        polygon(picture, fixed(np.array(shape)), self.cloth)

    def paint_head(self, picture: np.ndarray, index: int) -> None:
        """Paint the head from any side: skull and hair, and the face as far as it is turned to the camera."""
        points, depth = self.points[index], self.shot.depth[index]
        metre = float(self.near[index, 0]) * self.body.head
        ears = points[list(_EARS)]
        center = ears.mean(axis=0)
        top = points[list(_SHOULDERS)].mean(axis=0)
        up = (center - top) / max(float(np.hypot(*(center - top))), 1.0)
        tilt = float(np.degrees(np.arctan2(up[0], -up[1])))
        skull = (_SKULL[0] * metre, _SKULL[1] * metre)
        ellipse(picture, center, (skull[0] + self.line, skull[1] + self.line), self.skin_edge, tilt)
        ellipse(picture, center, skull, self.face.hair, tilt)
        ahead = points[0] - center  # to the nose
        facing = float(depth[0] - depth[list(_EARS)].mean()) / (0.1 * self.body.head)  # 1 to the camera, -1 away
        if facing < -_SIDEWAYS:
            return
        face = center + 0.35 * ahead - 0.022 * metre * up
        narrow = 0.55 + 0.35 * max(facing, 0.0)
        ellipse(picture, face, (narrow * skull[0], 0.80 * skull[1]), self.skin, tilt)
        for eye in _EYES:
            if depth[eye] > depth[list(_EARS)].mean():
                disc(picture, points[eye], 0.012 * metre, scale(self.face.hair, 0.6))
        mouth = fixed(points[list(_MOUTH)]).tolist()
        if facing > _SIDEWAYS:
            segment(picture, mouth[0], mouth[1], self.face.lips, max(round(0.014 * metre), 1))
        nose = fixed(np.stack([points[0] + 0.03 * metre * up, points[0]])).tolist()
        segment(picture, nose[0], nose[1], scale(self.skin, 0.75), max(round(0.014 * metre), 1))
