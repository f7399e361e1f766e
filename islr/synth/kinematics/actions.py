"""Whole-body motions for pre-training on what is not signing: each a cycle of key poses, without handshapes.

Wrists and feet are given in the frame of their own side (x outwards is negative, as for a right arm), so that equal
numbers are symmetrical. Metres of an average body; the origin of wrists is between the shoulders, feet and hips are
offsets from where they stand.
"""

from __future__ import annotations

from dataclasses import dataclass

Point = tuple[float, float, float]
_HANGING: Point = (-0.235, -0.485, 0.040)
_GUARD: Point = (-0.140, -0.230, 0.200)
_CHEST: Point = (-0.160, -0.290, 0.200)
_HIP: Point = (-0.240, -0.400, 0.080)
_STILL: Point = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Key:
    """One pose of a person."""

    right: Point = _HANGING  # wrists
    left: Point = _HANGING
    right_foot: Point = _STILL
    left_foot: Point = _STILL
    hips: Point = _STILL
    lean: float = 0.0  # degrees forward
    tilt: float = 0.0  # degrees to the right side
    turn: float = 0.0  # degrees about the vertical


@dataclass(frozen=True)
class Action:
    """A cycle: the seconds each step takes, and the pose it ends in. It starts in the last pose."""

    steps: tuple[tuple[float, Key], ...]


def _both(wrist: Point, **others: object) -> Key:
    return Key(right=wrist, left=wrist, **others)  # type: ignore[arg-type]


_STAND = Key()
_OVERHEAD = (-0.150, 0.460, 0.020)
_UP_OUT = (-0.300, 0.400, 0.010)

ACTIONS: dict[str, Action] = {
    "arm circles": Action(
        (
            (0.30, _both((-0.50, 0.02, 0.02))),
            (0.30, _both(_UP_OUT)),
            (0.30, _both((-0.16, 0.10, 0.42))),
            (0.30, _both((-0.26, -0.30, 0.28))),
        )
    ),
    "bow": Action(((0.8, _both((-0.16, -0.50, 0.12), lean=62, hips=(0, 0, -0.10))), (0.3, _STAND), (0.7, _STAND))),
    "clap": Action(((0.16, _both((-0.020, -0.170, 0.330))), (0.22, _both((-0.200, -0.150, 0.310))))),
    "drink": Action(
        (
            (0.7, Key(right=(-0.060, 0.085, 0.200))),
            (0.6, Key(right=(-0.045, 0.120, 0.190), lean=-8)),
            (0.6, Key(right=(-0.150, -0.200, 0.260))),
            (0.3, Key(right=(-0.150, -0.200, 0.260))),
        )
    ),
    "jump": Action(
        (
            (0.35, _both((-0.26, -0.42, -0.16), hips=(0, -0.24, -0.06), lean=22)),
            (
                0.34,
                _both((-0.24, 0.25, 0.28), hips=(0, 0.22, 0), right_foot=(0, 0.20, 0), left_foot=(0, 0.20, 0)),
            ),
            (0.25, _both(_HIP, hips=(0, -0.12, -0.03), lean=12)),
            (0.35, _STAND),
        )
    ),
    "jumping jack": Action(
        (
            (
                0.35,
                _both(_UP_OUT, right_foot=(-0.20, 0, 0), left_foot=(-0.20, 0, 0), hips=(0, -0.05, 0)),
            ),
            (0.35, _STAND),
        )
    ),
    "kick": Action(
        (
            (0.30, Key(_GUARD, _GUARD, right_foot=(0, 0.12, -0.22), lean=6)),
            (0.22, Key(_HIP, _GUARD, right_foot=(0.02, 0.66, 0.56), hips=(0, 0.0, 0.03), lean=-16)),
            (0.35, Key(_GUARD, _GUARD, right_foot=(0, 0, -0.10))),
        )
    ),
    "lunge": Action(
        (
            (0.55, _both(_HIP, right_foot=(0, 0, 0.42), left_foot=(0, 0.04, -0.28), hips=(0, -0.26, 0.06))),
            (0.55, _both(_HIP)),
            (0.55, _both(_HIP, left_foot=(0, 0, 0.42), right_foot=(0, 0.04, -0.28), hips=(0, -0.26, 0.06))),
            (0.55, _both(_HIP)),
        )
    ),
    "march": Action(
        (
            (0.32, Key((-0.20, -0.44, -0.12), (-0.16, -0.22, 0.25), right_foot=(0, 0.32, 0.16))),
            (0.20, _STAND),
            (0.32, Key((-0.16, -0.22, 0.25), (-0.20, -0.44, -0.12), left_foot=(0, 0.32, 0.16))),
            (0.20, _STAND),
        )
    ),
    "pick up": Action(
        (
            (0.9, Key((-0.10, -0.52, 0.22), (-0.20, -0.36, 0.16), hips=(0, -0.40, -0.14), lean=58)),
            (0.2, Key((-0.10, -0.52, 0.22), (-0.20, -0.36, 0.16), hips=(0, -0.40, -0.14), lean=58)),
            (0.9, Key(right=(-0.12, -0.20, 0.26))),
            (0.3, _STAND),
        )
    ),
    "punch": Action(
        (
            (0.16, Key((0.02, -0.08, 0.50), _GUARD, turn=30, lean=6)),
            (0.24, _both(_GUARD)),
            (0.16, Key(_GUARD, (0.02, -0.08, 0.50), turn=-30, lean=6)),
            (0.24, _both(_GUARD)),
        )
    ),
    "push": Action(((0.40, _both((-0.15, -0.14, 0.50), lean=12)), (0.45, _both(_CHEST)), (0.2, _both(_CHEST)))),
    "side bend": Action(
        (
            (0.7, Key((-0.26, -0.50, 0.04), (-0.05, 0.46, 0.06), tilt=26)),
            (0.6, _both(_OVERHEAD)),
            (0.7, Key((-0.05, 0.46, 0.06), (-0.26, -0.50, 0.04), tilt=-26)),
            (0.6, _both(_OVERHEAD)),
        )
    ),
    "squat": Action(
        ((0.75, _both((-0.14, -0.06, 0.46), hips=(0, -0.40, -0.16), lean=30)), (0.15, _STAND), (0.6, _STAND))
    ),
    "throw": Action(
        (
            (0.55, Key((-0.34, 0.22, -0.20), (-0.15, -0.05, 0.36), left_foot=(0, 0, 0.20), turn=24, lean=-8)),
            (0.30, Key((-0.02, -0.06, 0.46), (-0.24, -0.36, 0.02), left_foot=(0, 0, 0.26), turn=-22, lean=18)),
            (0.60, _STAND),
            (0.30, _STAND),
        )
    ),
    "turn": Action(
        (
            (1.30, Key((-0.28, -0.40, 0.06), (-0.28, -0.40, 0.06), turn=360)),
            (0.50, Key((-0.28, -0.40, 0.06), (-0.28, -0.40, 0.06), turn=360)),
        )
    ),
    "wave": Action(
        ((0.24, Key(right=(-0.480, 0.150, 0.100))), (0.24, Key(right=(-0.270, 0.250, 0.120)))),
    ),
}
