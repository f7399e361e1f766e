"""Pixels: a performance and a signer -> RGB frames. Painter's algorithm over limbs, fingers and head, supersampled.

Legend: T frames. Everything is drawn on a canvas of `supersampling` times the picture, then averaged down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from islr.data.synth.body import Body, landmarks
from islr.data.synth.motion import Performance
from islr.data.synth.signer import Camera, Color, Look

_SHIFT = 4  # fractional bits of cv2 coordinates
_ONE = 1 << _SHIFT
_CANVAS = 256  # smallest canvas side: below this a finger is too few pixels to shade
_FINGER_WIDTH = np.array([0.0205, 0.0185, 0.0165])  # metres of an average hand, per segment
_THUMB_WIDTH = np.array([0.0300, 0.0225, 0.0195])
_PALM_DEPTH = 0.026
_ARM_WIDTHS = (0.104, 0.084, 0.058)  # shoulder, elbow, wrist
_OUTLINE = 0.0048  # metres

Points = list[list[int]]


@dataclass(frozen=True)
class Shot:
    """One clip before it is drawn: 3-D performance projected by a camera. Pixels are those of the final picture."""

    points: np.ndarray  # [T, 75, 2] pixels
    depth: np.ndarray  # [T, 75]
    per_metre: np.ndarray  # [T, 75]
    palm_side: np.ndarray  # [2, T] -1 back of the hand seen .. 1 palm seen
    pad_side: np.ndarray  # [2, T, 4, 3]
    sway: np.ndarray  # [T, 2] pixels
    size: int


def shoot(performance: Performance, body: Body, camera: Camera, size: int) -> Shot:
    """Project a performance into a square picture of `size` pixels."""
    world = landmarks(body, performance.elbows, performance.hands)
    moved = world + performance.sway[:, None]
    points, depth, per_metre = camera.project(moved, size)
    still, _, _ = camera.project(np.zeros((1, 3)), size)
    swayed, _, _ = camera.project(performance.sway, size)
    return Shot(
        points=points,
        depth=depth,
        per_metre=per_metre,
        palm_side=camera.face_on(performance.palms),
        pad_side=camera.face_on(performance.pads),
        sway=swayed - still,
        size=size,
    )


def supersampling(size: int) -> int:
    """Canvas pixels per picture pixel along one side."""
    return max(math.ceil(_CANVAS / size), 1)


def frames(
    shot: Shot, body: Body, camera: Camera, look: Look, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """The pictures of a shot, uint8 [size, size, 3] RGB, one after the other."""
    painter = _Painter(shot, body, camera, look, rng)
    grain = _Grain(look, shot.size, rng)
    for index in range(len(shot.points)):
        canvas = painter.paint(index)
        if canvas.shape[0] != shot.size:
            canvas = cv2.resize(canvas, (shot.size, shot.size), interpolation=cv2.INTER_AREA)
        yield grain.expose(canvas, index)


class _Grain:
    """Exposure and sensor noise: one large noise tile per clip, read at another offset in every frame."""

    def __init__(self, look: Look, size: int, rng: np.random.Generator) -> None:
        self._size = size
        tile = rng.standard_normal((size + 32, size + 32, 3), dtype=np.float32) * look.noise
        self._tile = np.round(tile).astype(np.int16)
        self._offsets = rng.integers(0, 33, (512, 2))

    def expose(self, picture: np.ndarray, index: int) -> np.ndarray:
        y, x = self._offsets[index % len(self._offsets)]
        noise = np.ascontiguousarray(self._tile[y : y + self._size, x : x + self._size])
        return cv2.add(picture, noise, dtype=cv2.CV_8U)


def _mix(a: Color, b: Color, amount: float) -> Color:
    return tuple(p + (q - p) * amount for p, q in zip(a, b, strict=True))  # type: ignore[return-value]


def _scale(color: Color, factor: float) -> Color:
    return tuple(min(channel * factor, 255.0) for channel in color)  # type: ignore[return-value]


class _Painter:
    """Draws the frames of one shot. All geometry is prepared for the whole clip; `paint` only calls cv2."""

    def __init__(self, shot: Shot, body: Body, camera: Camera, look: Look, rng: np.random.Generator) -> None:
        self.ss = supersampling(shot.size)
        self.side = shot.size * self.ss
        self.look = look
        self.body = body
        gain = look.gain
        self.tint: Callable[[Color], Color] = lambda c: (c[0] * gain[0], c[1] * gain[1], c[2] * gain[2])
        self.unit = float(camera.project(np.zeros(3), self.side)[2])  # canvas pixels per metre at the body
        self.line = max(int(round(_OUTLINE * self.unit)), 1)
        self.canvas_points = shot.points * self.ss
        self.fixed = np.round(self.canvas_points * _ONE).astype(np.int32)
        self.near = shot.per_metre * self.ss
        self.depth = shot.depth
        self.shot = shot
        self.camera = camera
        self.sway = np.round(shot.sway * self.ss * _ONE).astype(np.int32)
        self.skin, self.palm = self.tint(look.skin), self.tint(look.palm)
        self.skin_edge = _scale(self.skin, 0.42)
        self.cloth = self.tint(look.clothes)
        self.cloth_edge = _scale(self.cloth, 0.55) if sum(self.cloth) > 210 else _scale(self.cloth, 1.7)
        self.hair = self.tint(look.hair)
        self.light = np.array(look.light) / np.linalg.norm(look.light)
        self.backdrop = self._paint_backdrop()
        self.blink, self.mouth = self._expressions(len(shot.points), rng)
        self._prepare_torso()
        self._prepare_hands()
        self._prepare_arms()
        self.order = self._depth_order()

    # ---- preparation -------------------------------------------------------------------------------------------------

    def _expressions(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Eye opening and mouth opening [T] in 0..1: a blink now and then, some mouthing."""
        time = np.arange(count)
        blink = np.ones(count)
        if rng.random() < 0.6:
            blink = np.clip(np.abs(time - rng.uniform(0, count)) - 1.0, 0.0, 1.0)
        speed, phase = rng.uniform(0.15, 0.4), rng.uniform(0, 6.28)
        return blink, np.clip(0.5 * np.sin(speed * time + phase) + 0.3 * np.sin(2.3 * speed * time), 0.0, 1.0)

    def _flat(self, points: np.ndarray) -> np.ndarray:
        """Body-frame points [N, 3] -> fixed-point canvas coordinates [N, 2] without sway."""
        return np.round(self.camera.project(points, self.side)[0] * _ONE).astype(np.int32)

    def _prepare_torso(self) -> None:
        s, t, n = self.body.shoulder, self.body.torso, self.body.neck
        half = np.array(
            [
                (0.050, 0.55 * n), (0.055, 0.30 * n), (0.50 * s, 0.030), (0.86 * s, 0.028), (1.10 * s, 0.012),
                (1.22 * s, -0.035), (1.20 * s, -0.10), (0.96 * s, -0.20), (0.88 * s, -0.55 * t), (0.90 * s, -0.8 * t),
                (1.00 * s, -1.05 * t), (1.02 * s, -1.5 * t),
            ]
        )  # fmt: skip
        outline = np.concatenate([half, half[::-1] * [-1, 1]])
        self.torso = self._flat(np.column_stack([outline, np.zeros(len(outline))]))
        side = half[4:]
        inner = side - [0.055, 0.0]
        panel = np.concatenate([side, inner[::-1]]) * [1.0 if self.light[0] < 0 else -1.0, 1.0]
        self.torso_shade = self._flat(np.column_stack([panel, np.zeros(len(panel))]))
        neck = np.array(
            [
                (0.046, 1.3 * n),
                (0.050, 0.4 * n),
                (0.062, 0.0),
                (0.0, -0.030),
                (-0.062, 0.0),
                (-0.050, 0.4 * n),
                (-0.046, 1.3 * n),
            ]
        )
        if self.look.neckline == "v":
            neck[3] = (0.0, -0.105)
        elif self.look.neckline == "collar":
            neck[3] = (0.0, -0.012)
        self.neck = self._flat(np.column_stack([neck, np.full(len(neck), 0.03)]))
        self.neck_shade = self._flat(
            np.column_stack(
                [
                    [
                        (0.047, 1.3 * n),
                        (0.050, 0.62 * n),
                        (0.0, 0.42 * n),
                        (-0.050, 0.62 * n),
                        (-0.047, 1.3 * n),
                    ],
                    np.full(5, 0.03),
                ]
            )
        )
        rows = np.arange(-0.12, -1.5 * t, -0.06)
        self.stripes = [self._flat(np.array([(0.9 * s, y, 0.0), (-0.9 * s, y, 0.0)])) for y in rows]

    def _prepare_hands(self) -> None:
        """Fixed-point chains, widths and shades of fingers and palms for every frame."""
        self.hand_unit = self.near[:, [54, 33]].T * self.body.hand  # [2, T]
        self.widths = []  # per side: fingers [T, 3], thumb [T, 3]
        for side in range(2):
            scale = self.hand_unit[side][:, None]
            self.widths.append(
                (np.maximum(np.round(scale * _FINGER_WIDTH), 2).astype(int).tolist(),
                 np.maximum(np.round(scale * _THUMB_WIDTH), 2).astype(int).tolist())
            )  # fmt: skip
        self.finger_colors = [self._finger_colors(side) for side in range(2)]
        self.palm_colors = [
            self._skin_colors(self.shot.palm_side[side], np.zeros(len(self.depth))) for side in range(2)
        ]

    def _skin_colors(self, facing: np.ndarray, lift: np.ndarray) -> list[Color]:
        """Skin colours [...] for how far the palmar side faces the camera and how near the part is (metres)."""
        toward_palm = np.clip(0.5 + 1.2 * facing, 0.0, 1.0)[..., None]
        color = np.array(self.skin) * (1 - toward_palm) + np.array(self.palm) * toward_palm
        level = 0.90 + 0.12 * np.abs(facing) + np.clip(1.1 * lift, -0.16, 0.12)
        return np.clip(color * level[..., None], 0, 255).tolist()

    def _finger_colors(self, side: int) -> list[list[list[Color]]]:
        """[T][5 fingers][3 segments] colours; the thumb is finger 0 and faces as the palm does."""
        start = 54 if side == 0 else 33
        hand = self.depth[:, start : start + 21]
        segments = 0.5 * (hand[:, 1:].reshape(-1, 5, 4)[:, :, 1:] + hand[:, 1:].reshape(-1, 5, 4)[:, :, :-1])
        lift = segments - hand[:, [0, 5, 9, 13, 17]].mean(axis=1)[:, None, None]
        thumb = np.repeat(0.4 * self.shot.palm_side[side][:, None, None], 3, axis=2)
        facing = np.concatenate([thumb, self.shot.pad_side[side]], axis=1)
        return self._skin_colors(facing, lift)

    def _prepare_arms(self) -> None:
        self.arm_points = []
        for side in range(2):
            shoulder, elbow, wrist = (12, 14, 16) if side == 0 else (11, 13, 15)
            self.arm_points.append((shoulder, elbow, wrist))

    def _depth_order(self) -> list[list[tuple[int, int]]]:
        """For every frame the units to draw, far to near: (side, unit); unit 0-4 fingers, 5 palm, 6 forearm, 7 upper arm, 8 head."""
        depths, names = [], []
        for side in range(2):
            start = 54 if side == 0 else 33
            hand = self.depth[:, start : start + 21]
            palm = hand[:, [0, 5, 9, 13, 17]].mean(axis=1)
            for finger in range(5):
                chain = hand[:, 1 + 4 * finger : 5 + 4 * finger]
                depths.append(chain[:, 1:].mean(axis=1) if finger else chain[:, 1:].mean(axis=1))
                names.append((side, finger))
            depths.append(palm)
            names.append((side, 5))
            shoulder, elbow, wrist = self.arm_points[side]
            depths.append(0.45 * self.depth[:, elbow] + 0.55 * self.depth[:, wrist] - 0.03)
            names.append((side, 6))
            depths.append(0.5 * (self.depth[:, shoulder] + self.depth[:, elbow]) - 0.06)
            names.append((side, 7))
        depths.append(self.depth[:, [7, 8]].mean(axis=1))
        names.append((0, 8))
        order = np.argsort(np.stack(depths, axis=1), axis=1, kind="stable")
        return [[names[column] for column in row] for row in order.tolist()]

    # ---- painting ----------------------------------------------------------------------------------------------------

    def paint(self, index: int) -> np.ndarray:
        canvas = self.backdrop.copy()
        sway = self.sway[index]
        if self.look.hair_style in ("long", "bob"):
            self._paint_back_hair(canvas, index)
        self._paint_torso(canvas, sway)
        for side, unit in self.order[index]:
            if unit < 5:
                self._paint_finger(canvas, index, side, unit)
            elif unit == 5:
                self._paint_palm(canvas, index, side)
            elif unit == 6:
                self._paint_forearm(canvas, index, side)
            elif unit == 7:
                self._paint_upper_arm(canvas, index, side)
            else:
                self._paint_head(canvas, index)
        return canvas

    def _polygon(self, canvas: np.ndarray, points: np.ndarray, color: Color) -> None:
        cv2.fillPoly(canvas, [points], color, cv2.LINE_AA, _SHIFT)

    def _contour(
        self, canvas: np.ndarray, points: np.ndarray, color: Color, width: int, closed: bool = True
    ) -> None:
        cv2.polylines(canvas, [points], closed, color, width, cv2.LINE_AA, _SHIFT)

    def _paint_torso(self, canvas: np.ndarray, sway: np.ndarray) -> None:
        torso = self.torso + sway
        self._contour(canvas, torso, self.cloth_edge, 2 * self.line)
        self._polygon(canvas, torso, self.cloth)
        if self.look.stripes:
            for row in self.stripes:
                self._contour(
                    canvas, row + sway, _mix(self.cloth, self.cloth_edge, 0.35), 3 * self.line, False
                )
        self._polygon(canvas, self.torso_shade + sway, _scale(self.cloth, 1 - 0.16 * self.look.shading))
        neck = self.neck + sway
        self._polygon(canvas, neck, self.skin)
        self._polygon(canvas, self.neck_shade + sway, _scale(self.skin, 0.80))
        self._contour(canvas, neck[1:-1], self.cloth_edge, self.line, False)

    def _capsule(
        self, canvas: np.ndarray, a: np.ndarray, b: np.ndarray, wide: float, narrow: float, color: Color
    ) -> None:
        """A tapered limb between two canvas points."""
        axis = b - a
        length = float(np.hypot(axis[0], axis[1])) or 1.0
        side = np.array([-axis[1], axis[0]]) / length
        quad = np.array([a + side * wide, b + side * narrow, b - side * narrow, a - side * wide])
        cv2.fillConvexPoly(canvas, np.round(quad * _ONE).astype(np.int32), color, cv2.LINE_AA, _SHIFT)
        for center, radius in ((a, wide), (b, narrow)):
            point = (int(center[0] * _ONE), int(center[1] * _ONE))
            cv2.circle(canvas, point, max(int(radius * _ONE), 1), color, -1, cv2.LINE_AA, _SHIFT)

    def _limb(
        self,
        canvas: np.ndarray,
        a: np.ndarray,
        b: np.ndarray,
        wide: float,
        narrow: float,
        color: Color,
        edge: Color,
    ) -> None:
        self._capsule(canvas, a, b, wide + self.line, narrow + self.line, edge)
        self._capsule(canvas, a, b, wide, narrow, color)
        lit = 0.30 * min(wide, narrow) * self.light
        bright = _scale(color, 1 + 0.14 * self.look.shading)
        self._capsule(canvas, a + lit, b + lit, 0.55 * wide, 0.5 * narrow, bright)

    def _paint_upper_arm(self, canvas: np.ndarray, index: int, side: int) -> None:
        shoulder, elbow, _ = self.arm_points[side]
        points, near = self.canvas_points[index], self.near[index]
        wide, narrow = 0.5 * _ARM_WIDTHS[0] * near[shoulder], 0.5 * _ARM_WIDTHS[1] * near[elbow]
        self._limb(canvas, points[shoulder], points[elbow], wide, narrow, self.cloth, self.cloth_edge)

    def _paint_forearm(self, canvas: np.ndarray, index: int, side: int) -> None:
        _, elbow, wrist = self.arm_points[side]
        points, near = self.canvas_points[index], self.near[index]
        a, b = points[elbow], points[wrist]
        wide, narrow = 0.5 * _ARM_WIDTHS[1] * near[elbow], 0.5 * _ARM_WIDTHS[2] * near[wrist]
        sleeve = self.look.sleeve
        if sleeve < 0.9:
            self._limb(canvas, a, b, 0.92 * wide, narrow, self.skin, self.skin_edge)
        if sleeve > 0:
            end = a + (b - a) * sleeve
            self._limb(
                canvas, a, end, wide, wide + (1.16 * narrow - wide) * sleeve, self.cloth, self.cloth_edge
            )
        else:
            cuff = a + (b - a) * 0.06
            self._limb(canvas, a, cuff, 1.02 * wide, wide, self.cloth, self.cloth_edge)

    def _paint_palm(self, canvas: np.ndarray, index: int, side: int) -> None:
        start = 54 if side == 0 else 33
        hand = self.canvas_points[index, start : start + 21]
        unit = self.hand_unit[side][index]
        across = (hand[5] - hand[17]) * 0.36
        ring = np.concatenate([hand[[5, 9, 13, 17]], [hand[0] - across, hand[0] + across], hand[[1]]])
        hull = cv2.convexHull(np.round(ring * _ONE).astype(np.int32))
        depth = max(int(round(_PALM_DEPTH * unit * 0.72)), 2)
        color = self.palm_colors[side][index]
        self._contour(canvas, hull, self.skin_edge, depth + 2 * self.line)
        self._polygon(canvas, hull, color)
        self._contour(canvas, hull, color, depth)
        web = np.round(hand[[1, 2, 5]] * _ONE).astype(np.int32)
        self._polygon(canvas, web, color)
        wrist = (int(hand[0][0] * _ONE), int(hand[0][1] * _ONE))
        cv2.circle(canvas, wrist, int(0.026 * unit * _ONE), color, -1, cv2.LINE_AA, _SHIFT)

    def _paint_finger(self, canvas: np.ndarray, index: int, side: int, finger: int) -> None:
        start = (54 if side == 0 else 33) + 1 + 4 * finger
        chain = self.fixed[index, start : start + 4]
        widths = self.widths[side][0 if finger else 1][index]
        colors = self.finger_colors[side][index][finger]
        segments = range(3)
        if self.depth[index, start + 3] < self.depth[index, start + 1]:
            segments = range(2, -1, -1)
        joints = chain.tolist()
        for segment in segments:
            cv2.line(
                canvas,
                joints[segment],
                joints[segment + 1],
                self.skin_edge,
                widths[segment] + 2 * self.line,
                cv2.LINE_AA,
                _SHIFT,
            )
        for segment in segments:
            cv2.line(
                canvas,
                joints[segment],
                joints[segment + 1],
                colors[segment],
                widths[segment],
                cv2.LINE_AA,
                _SHIFT,
            )
        lit = np.round(0.22 * widths[1] * self.light * _ONE).astype(np.int32)
        glow = _scale(colors[1], 1 + 0.11 * self.look.shading)
        self._contour(canvas, chain + lit, glow, max(int(0.36 * widths[2]), 1), False)

    def _paint_back_hair(self, canvas: np.ndarray, index: int) -> None:
        points, near = self.canvas_points[index], float(self.near[index, 0])
        center = 0.5 * (points[7] + points[8])
        drop = 0.20 if self.look.hair_style == "long" else 0.10
        width = 0.098 * self.body.head * near
        top, low = center + [0, -0.03 * near], center + [0, drop * near]
        self._capsule(canvas, top, low, width, 0.95 * width, _scale(self.hair, 0.8))

    def _ellipse(
        self,
        canvas: np.ndarray,
        center: np.ndarray,
        axes: tuple[float, float],
        color: Color,
        span: tuple[int, int] = (0, 360),
        width: int = -1,
    ) -> None:
        point = (int(center[0] * _ONE), int(center[1] * _ONE))
        size = (max(int(axes[0] * _ONE), 1), max(int(axes[1] * _ONE), 1))
        cv2.ellipse(canvas, point, size, self.tilt, span[0], span[1], color, width, cv2.LINE_AA, _SHIFT)

    def _paint_head(self, canvas: np.ndarray, index: int) -> None:
        points = self.canvas_points[index]
        look, m = self.look, float(self.near[index, 0]) * self.body.head
        ears = points[7] - points[8]
        self.tilt = math.degrees(math.atan2(ears[1], ears[0]))
        center = 0.5 * (points[7] + points[8])
        down = np.array([-ears[1], ears[0]]) / max(float(np.hypot(*ears)), 1.0)
        across = np.array([down[1], -down[0]])
        for ear in (7, 8):
            self._ellipse(canvas, points[ear], (0.016 * m, 0.026 * m), self.skin_edge)
            self._ellipse(canvas, points[ear], (0.012 * m, 0.021 * m), _scale(self.skin, 0.92))
        if look.hair_style == "bun":
            self._ellipse(canvas, center - down * 0.135 * m, (0.040 * m, 0.036 * m), self.hair)
        skull = (0.079 * m, 0.110 * m)
        self._ellipse(canvas, center, (skull[0] + self.line, skull[1] + self.line), self.skin_edge)
        self._ellipse(canvas, center, skull, self.skin)
        bright = _scale(self.skin, 1 + 0.05 * look.shading)
        self._ellipse(canvas, center + self.light * 0.014 * m, (0.060 * m, 0.090 * m), bright)
        self._paint_hair(canvas, center, down, across, m)
        self._paint_face(canvas, index, points, down, across, m)

    def _paint_hair(
        self, canvas: np.ndarray, center: np.ndarray, down: np.ndarray, across: np.ndarray, m: float
    ) -> None:
        style, hair = self.look.hair_style, self.hair
        if style == "cropped":
            self._ellipse(canvas, center, (0.081 * m, 0.112 * m), hair, (205, 335))
            return
        crown = center - down * 0.012 * m
        self._ellipse(canvas, crown, (0.086 * m, 0.112 * m), hair, (196, 344))
        if style == "curly":
            for angle in range(188, 360, 21):
                turn = math.radians(angle)
                spot = crown + across * math.cos(turn) * 0.082 * m + down * math.sin(turn) * 0.104 * m
                self._ellipse(canvas, spot, (0.030 * m, 0.030 * m), hair)
        elif style in ("long", "bob"):
            length = 0.12 if style == "long" else 0.06
            for sign in (-1, 1):
                top = center + across * sign * 0.078 * m - down * 0.02 * m
                self._capsule(canvas, top, top + down * length * m, 0.017 * m, 0.014 * m, hair)
        elif style == "side":
            sweep = center - down * 0.078 * m + across * 0.022 * m
            self._ellipse(canvas, sweep, (0.056 * m, 0.026 * m), hair)

    def _paint_face(
        self,
        canvas: np.ndarray,
        index: int,
        points: np.ndarray,
        down: np.ndarray,
        across: np.ndarray,
        m: float,
    ) -> None:
        dark = _scale(self.skin, 0.62)
        opening = float(self.blink[index])
        brow = _scale(self.hair, 0.8) if sum(self.hair) < 380 else _scale(self.hair, 0.65)
        thin = max(int(0.006 * m), 1)
        for eye in (2, 5):
            spot = points[eye]
            if opening > 0.3:
                self._ellipse(canvas, spot, (0.0155 * m, 0.0095 * m * opening), self.tint((246, 246, 244)))
                self._ellipse(canvas, spot, (0.0078 * m, 0.0085 * m * opening), (38, 26, 20))
            self._ellipse(canvas, spot, (0.0165 * m, 0.0105 * m), _scale(self.skin, 0.45), (180, 360), thin)
            arch = np.array(
                [
                    spot - down * 0.024 * m - across * 0.019 * m,
                    spot - down * 0.030 * m,
                    spot - down * 0.024 * m + across * 0.019 * m,
                ]
            )
            self._contour(
                canvas, np.round(arch * _ONE).astype(np.int32), brow, max(int(0.0085 * m), 1), False
            )
        if self.look.glasses:
            for eye in (2, 5):
                self._ellipse(canvas, points[eye], (0.026 * m, 0.021 * m), (40, 40, 46), (0, 360), thin)
            bridge = np.array([points[2] - across * 0.026 * m, points[5] + across * 0.026 * m])
            self._contour(canvas, np.round(bridge * _ONE).astype(np.int32), (40, 40, 46), thin, False)
        nose = np.array(
            [points[0] - down * 0.030 * m, points[0] + across * 0.011 * m, points[0] - across * 0.004 * m]
        )
        self._contour(canvas, np.round(nose * _ONE).astype(np.int32), dark, max(int(0.0065 * m), 1), False)
        mouth = 0.5 * (points[9] + points[10])
        lips = _mix(self.skin, self.tint((176, 60, 66)), 0.62)
        open_to = float(self.mouth[index])
        self._ellipse(canvas, mouth, (0.026 * m, (0.0075 + 0.010 * open_to) * m), lips)
        if open_to > 0.25:
            self._ellipse(canvas, mouth, (0.018 * m, 0.008 * open_to * m), (60, 18, 22))
        else:
            seam = np.array([mouth - across * 0.024 * m, mouth + across * 0.024 * m])
            self._contour(canvas, np.round(seam * _ONE).astype(np.int32), _scale(lips, 0.6), thin, False)

    def _paint_backdrop(self) -> np.ndarray:
        """What is behind the signer; drawn once per clip from the signer's own seed."""
        rng = np.random.Generator(np.random.Philox(self.look.backdrop_seed))
        side = self.side
        first, second = (np.array(self.tint(color)) for color in self.look.backdrop_colors)
        ramp = np.linspace(0, 1, side)[:, None, None]
        kind = self.look.backdrop
        if kind == "plain":
            picture = np.broadcast_to(first, (side, side, 3))
        elif kind == "curtain":
            wave = 0.5 + 0.5 * np.sin(
                np.linspace(0, rng.uniform(40, 70), side) + 1.5 * np.sin(np.linspace(0, 9, side))
            )
            picture = np.broadcast_to(first + (second - first) * wave[None, :, None], (side, side, 3))
        else:
            picture = np.broadcast_to(first * (1 - ramp) + second * ramp, (side, side, 3))
        canvas = np.ascontiguousarray(np.clip(picture, 0, 255).astype(np.uint8))
        if kind == "panels":
            step = side // int(rng.integers(3, 6))
            for x in range(step // 2, side, step):
                cv2.line(canvas, (x, 0), (x, side), (second * 0.9).tolist(), max(side // 90, 1), cv2.LINE_AA)
        elif kind == "room":
            horizon = int(side * rng.uniform(0.55, 0.75))
            canvas[horizon:] = np.clip(second * 0.72, 0, 255)
            x, y, w, h = (np.array([rng.uniform(0.02, 0.7), 0.06, 0.26, 0.24]) * side).astype(int)
            cv2.rectangle(canvas, (x, y), (x + w, y + h), np.clip(second * 0.6, 0, 255).tolist(), -1)
            inset = max(side // 50, 1)
            cv2.rectangle(
                canvas,
                (x + inset, y + inset),
                (x + w - inset, y + h - inset),
                np.clip(first * 1.1, 0, 255).tolist(),
                -1,
            )
        elif kind == "shelf":
            for level in (0.16, 0.38):
                y = int(side * level)
                for x in range(0, side, max(side // 24, 2)):
                    height = int(side * rng.uniform(0.06, 0.12))
                    shade = np.clip(second * rng.uniform(0.55, 1.1) * rng.uniform(0.85, 1.1, 3), 0, 255)
                    cv2.rectangle(canvas, (x, y - height), (x + max(side // 30, 1), y), shade.tolist(), -1)
                cv2.line(canvas, (0, y), (side, y), (second * 0.5).tolist(), max(side // 70, 1))
            canvas = cv2.GaussianBlur(canvas, (0, 0), side / 110)
        return canvas
